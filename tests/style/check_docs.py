#!/usr/bin/python3
"""Compares the documents with the program: check_docs.py [--binary PROGRAM] [ROOT]

README.md and config.toml name every setting of src/config, with its default and bounds, and no other;
so does the manual page of the file. With the program: its --help names every option of the manual page,
and the other way round. Manual pages pass mandoc's lint.
"""

import argparse
import pathlib
import re
import subprocess
import sys

MANUAL = "docs/llm-billing-proxy.8"
FILE_MANUAL = "docs/llm-billing-proxy.toml.5"

_CONSTANT = re.compile(r"constexpr double (k\w+) = ([^;]+);")
_SETTING = re.compile(
    r'Setting\{"(?P<table>\w*)", "(?P<key>\w+)", (?P<reload>kLive|kRestart), &(?P<of>Config|Limits)::(?P<member>\w+)'
    r"(?P<rest>[^}]*)\}"
)
_MEMBER = re.compile(
    r"^  (?P<type>[\w:]+)\s+(?P<name>\w+)\s*(?:=\s*(?P<value>[^;]+)|\{(?P<braced>[^}]*)\})?;",
    re.MULTILINE,
)


def number(expression, constants=None):
    """Evaluates a C++ constant such as `32 << 10`, `10'000`, `size_t{1} << 30` or `10 * kMinute`."""
    text = " ".join(re.sub(r"size_t\s*\{(\d+)\}", r"\1", expression.replace("'", "")).split())
    for name, value in (constants or {}).items():
        text = re.sub(rf"\b{name}\b", repr(value), text)
    if not re.fullmatch(r"[\d.\s*<()+-]+", text):
        raise ValueError(f"no number: {expression}")
    return eval(text, {"__builtins__": {}})  # digits and operators only


class Setting:
    """One key: default and bounds as TOML has them (seconds, bytes), None where there are none."""

    def __init__(self, key, default, low, high, is_live):
        self.key, self.default, self.low, self.high, self.is_live = key, default, low, high, is_live


def read_defaults(header):
    defaults = {}
    for match in _MEMBER.finditer(re.sub(r"//[^\n]*", "", header)):
        value = (match["value"] or match["braced"] or "").strip()
        if match["type"] == "Milliseconds":
            defaults[match["name"]] = number(value) / 1000
        elif match["type"] in ("size_t", "uint16_t", "unsigned"):
            defaults[match["name"]] = number(value)
        elif match["type"] == "std::string":
            defaults[match["name"]] = value
        elif match["type"] == "LogLevel":
            defaults[match["name"]] = f'"{value.partition("::k")[2].upper()}"'
    return defaults


def read_settings(root):
    """What the program knows, by dotted key; backends' keys as backends.NAME.KEY."""
    source = (root / "src/config/settings.cc").read_text()
    defaults = read_defaults((root / "src/config/config.h").read_text())
    constants = {}
    for match in _CONSTANT.finditer(source):
        constants[match[1]] = number(match[2], constants)
    settings = {}
    for match in _SETTING.finditer(source):
        key = f"{match['table']}.{match['key']}".lstrip(".")
        bounds = [part.strip() for part in match["rest"].split(",") if part.strip()]
        low, high = (
            (number(part, constants) for part in bounds[:2]) if len(bounds) == 2 else (None, None)
        )
        settings[key] = Setting(
            key, defaults.get(match["member"]), low, high, match["reload"] == "kLive"
        )
    if len(settings) != source.count("    Setting{"):
        raise SystemExit("check_docs.py does not understand src/config/settings.cc any more")
    names = re.search(r"kBackendKeys\{([^}]*)\}", (root / "src/config/load.cc").read_text())
    for name in re.findall(r'"(\w+)"', names[1]):
        settings[f"backends.NAME.{name}"] = Setting(f"backends.NAME.{name}", None, None, None, True)
    return settings


def leading_number(text):
    match = re.match(r"[\d.]+", text.strip())
    return float(match[0]) if match else None


def check_value(where, setting, default, low, high, is_live):
    """Differences of one documented line."""
    if setting.low is not None and (low, high) != (setting.low, setting.high):
        yield f"{where}: {setting.key}: bounds are {setting.low:g} to {setting.high:g}"
    if (
        isinstance(setting.default, (int, float))
        and leading_number(default or "") != setting.default
    ):
        yield f"{where}: {setting.key}: default is {setting.default:g}"
    if isinstance(setting.default, str) and setting.default and setting.default != default:
        yield f"{where}: {setting.key}: default is {setting.default}"
    if is_live is not None and is_live != setting.is_live:
        yield f"{where}: {setting.key}: {'takes effect at a reload' if setting.is_live else 'needs a restart'}"


def check_names(where, settings, found):
    for key in settings:
        if key not in found:
            yield f"{where}: {key}: missing"
    for key in found:
        if key not in settings:
            yield f"{where}: {key}: the program has no such setting"


def check_readme(settings, text):
    """Rows `| `key` | unit | default | bounds | reload | meaning |`."""
    found = set()
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 6:
            continue
        key, _, default, bounds, reload, _ = cells
        key = key.strip("`")
        found.add(key)
        if key not in settings:
            continue
        low, _, high = bounds.partition(" to ")
        yield from check_value(
            "README.md", settings[key], default.strip("`"), leading_number(low), leading_number(high),
            {"live": True, "restart": False}.get(reload),
        )  # fmt: skip
        if reload not in ("live", "restart"):
            yield f"README.md: {key}: says {reload!r}; expected live or restart"
    yield from check_names("README.md", settings, found)


def check_example(settings, text):
    """Every setting stands in config.toml, set or as `#key = default`, its bounds beside it."""
    found, table = set(), ""
    for line in text.splitlines():
        if match := re.match(r"\[([^\]]+)\]", line):
            table = "backends.NAME" if match[1].startswith("backends.") else match[1]
        elif match := re.match(r"(#?)(\w+) = (\"[^\"]*\"|[^#\s]*) *(.*)", line):
            key = f"{table}.{match[2]}".lstrip(".")
            found.add(key)
            told = re.search(r"default (\"[^\"]*\"|[\w.]+)", match[4])
            if table != "backends.NAME" and key in settings and settings[key].default:
                default = match[3] if match[1] else told and told[1]
                yield from check_value(
                    "config.toml", settings[key], default, *told_bounds(match[4]), None
                )
        elif (match := re.match(r"#   (\w+)  ", line)) and f"backends.NAME.{match[1]}" in settings:
            found.add(f"backends.NAME.{match[1]}")
    yield from check_names("config.toml", settings, found)


def told_bounds(text):
    match = re.search(r"([\d.]+) to ([\d.]+)", text)
    return (float(match[1]), float(match[2])) if match else (None, None)


def check_file_manual(settings, text):
    """Items `.It Ic key` under `.Ss [table]`; their last lines tell bounds, default and restart."""
    found, table = set(), ""
    for part in re.split(r"^(?=\.S[sh] |\.It Ic )", text, flags=re.MULTILINE):
        if match := re.match(r'\.S[sh] "?(?:\[(.+)\])?', part):
            table = match[1] or ""
        elif match := re.match(r"\.It Ic (\w+)", part):
            key = f"{table}.{match[1]}".lstrip(".")
            found.add(key)
            default = re.search(r"default (\"[^\"]*\"|[\d.]*\d)", part, re.IGNORECASE)
            if key in settings:
                is_live = (
                    None
                    if key.startswith("backends.")
                    else not re.search("restart", part, re.IGNORECASE)
                )
                yield from check_value(
                    FILE_MANUAL, settings[key], default and default[1], *told_bounds(part), is_live
                )
    yield from check_names(FILE_MANUAL, settings, found)


def lint(root, name):
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", name], cwd=root, capture_output=True, text=True
    )
    yield from (line.removeprefix("mandoc: ") for line in done.stdout.splitlines())


def program_options(binary):
    """Long options that --help names, of the program and of its subcommands, and the subcommands."""

    def help_of(*command):
        return subprocess.run(
            [binary, *command, "--help"], capture_output=True, text=True, check=True
        ).stdout

    def subcommands(text):
        block = re.search(r"^Subcommands:\n((?:  .*\n?)+)", text, re.MULTILINE)
        return re.findall(r"^  (\w+)  ", block[1], re.MULTILINE) if block else []

    options, commands = set(), set()
    waiting = [()]
    while waiting:
        command = waiting.pop()
        text = help_of(*command)
        options |= set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text))
        for name in subcommands(text):
            commands.add(" ".join([*command, name]))
            waiting.append((*command, name))
    return options, commands


def check_manual(binary, text):
    options, commands = program_options(binary)
    manual_options = set(re.findall(r"Fl -([a-z][a-z-]+)", text))
    manual_commands = set(re.findall(r"^\.It Ic ([a-z]+(?: [a-z]+)?)", text, re.MULTILINE))
    manual_commands |= {command.split()[0] for command in manual_commands}
    for have, documented, word in (
        (options, manual_options, "--"),
        (commands, manual_commands, ""),
    ):
        for name in sorted(have - documented):
            yield f"{MANUAL}: {word}{name}: missing"
        for name in sorted(documented - have):
            yield f"{MANUAL}: {word}{name}: the program does not know it"


def check(root, binary=None):
    settings = read_settings(root)
    yield from check_readme(settings, (root / "README.md").read_text())
    yield from check_example(settings, (root / "config.toml").read_text())
    yield from check_file_manual(settings, (root / FILE_MANUAL).read_text())
    for name in (MANUAL, FILE_MANUAL):
        yield from lint(root, name)
    if binary:
        yield from check_manual(binary, (root / MANUAL).read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--binary", type=pathlib.Path)
    parser.add_argument(
        "root", nargs="?", type=pathlib.Path, default=pathlib.Path(__file__).parents[2]
    )
    arguments = parser.parse_args()
    problems = list(check(arguments.root, arguments.binary and arguments.binary.resolve()))
    for line in problems:
        print(line)
    print(f"documents: {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
