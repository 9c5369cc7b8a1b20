#!/usr/bin/python3
"""The rules of CONTRIBUTING.md that a machine can check: check.py [ROOT] prints FILE:LINE: RULE: what is wrong.

Looks at text only and knows no C++ beyond comments, strings and braces. The samples in selftest.py show
that each rule finds what it is for. Documents are compared with the program by check_docs.py.
"""

import ast
import pathlib
import re
import subprocess
import sys

FOLDERS = ["base", "config", "http", "api", "billing", "db", "net", "proxy", "admin", "cli", "main"]
# A folder includes only folders to its left, and of these not:
NOT_EVEN = {"net": {"api", "billing", "db"}, "proxy": {"db"}, "admin": {"db"}}

SOCKET_HEADERS = r"sys/(socket|epoll|un)\.h|netdb\.h|netinet/.*|asio.*|boost/asio.*"
DRIVER_HEADERS = r"(mongoc|bson)/.*|(mongoc|bson|sqlite3)\.h"
# Header pattern -> the folders and files that may include it.
RESERVED_HEADERS = [
    (re.compile(SOCKET_HEADERS), ("src/net/",)),
    (re.compile(DRIVER_HEADERS), ("src/db/",)),
    (re.compile(r"openssl/(evp|rand|err|crypto)\.h"), ("src/net/", "src/base/digest.cc")),
    (re.compile(r"openssl/(?!evp|rand|err|crypto).*"), ("src/net/",)),
]

FUNCTION_LINES_MAX = 70
CPP_COLUMNS_MAX = 100
PYTHON_COLUMNS_MAX = 120

# A letter in brackets, so that this file passes its own rules.
UNFINISHED = re.compile(r"\b([T]ODO|[F]IXME|[X]XX|[H]ACK)\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/([w]ork|[r]oot)/|/tmp/[b]ash")
REGISTRY_HOST = re.compile(
    r"\b([p]ypi\.org|[p]ythonhosted\.org|[n]pmjs\.(org|com)|[c]rates\.io|[d]eb\.debian\.org|[p]roxy\.golang\.org"
    r"|[r]epo1?\.maven\.(apache\.)?org|[h]uggingface\.co)\b"
)
# GCC 12 ends the frame of what was chosen twice.
CHOSEN_AWAIT = re.compile(r"co_await \([^()]*\?")
WRONG_WORD = re.compile(r"\b(up|down)[s]treams?\b", re.IGNORECASE)

CPP = (".cc", ".h")
CLANG_FORMAT = "clang-format-14"


class Problem(str):
    """FILE:LINE: RULE: text."""


def problem(path, line, rule, text):
    return Problem(f"{path}:{line}: {rule}: {text}")


# Files.


def project_files(root):
    """Paths relative to root of what git tracks or would add."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    names = sorted({name for name in listed.decode().split("\0") if name})
    return [name for name in names if (root / name).is_file() and not (root / name).is_symlink()]


def read_text(path):
    """None for files that are no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None


def is_cpp(name):
    return name.endswith(CPP) and name.startswith(("src/", "fuzz/", "bench/"))


def is_python(name, text):
    return name.endswith(".py") or text.startswith("#!/usr/bin/python3\n")


# C++ without its comments and texts.

_RAW_STRING = re.compile(r'R"([^()\\ ]{0,16})\(.*?\)\1"', re.DOTALL)
_TOKEN = re.compile(
    r"""//(?:\\\n|[^\n])*        # comment to the end of the line
      | /\*.*?\*/
      | "(?:\\.|[^"\\\n])*"
      | (?<![0-9a-zA-Z_])'(?:\\.|[^'\\\n])+'   # a character; not the ' in 10'000
    """,
    re.DOTALL | re.VERBOSE,
)
_DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)


def _blank(match):
    """As many lines, and not a brace in them; a text stays a text."""
    text = match.group()
    mark = '""' if text[0] in "\"'R" else ""
    return mark + "\n" * text.count("\n")


def strip_cpp(text):
    """Comments, texts and directives removed; line numbers stay."""
    pattern = re.compile(f"{_RAW_STRING.pattern}|{_TOKEN.pattern}", re.DOTALL | re.VERBOSE)
    return _DIRECTIVE.sub(_blank, pattern.sub(_blank, text))


_CONTAINER = re.compile(
    r'(inline |export |static |typedef |const )*(namespace|class|struct|union|enum)\b|extern ""$'
)


def _drop_template(head):
    """Without a leading `template <...>` clause."""
    while head.startswith("template"):
        begin = head.find("<")
        depth = 0
        for i in range(begin, len(head)):
            depth += {"<": 1, ">": -1}.get(head[i], 0)
            if depth == 0:
                break
        head = (
            head[i + 1 :].strip() if begin >= 0 and depth == 0 else head[len("template") :].strip()
        )
    return head


def _kind_of_block(head, glued):
    """What the brace after `head` opens: "container", "function" or "value"."""
    head = _drop_template(re.sub(r"\[\[.*?\]\]", "", " ".join(head.split())))
    head = re.sub(r"^(public|protected|private) *:", "", head).strip()
    if _CONTAINER.match(head):
        return "container"
    if glued:  # `name{`: an initialiser, since clang-format puts a space before every body
        return "value"
    outside = re.sub(r"operator *(\(\)|[^\w\s(]+)", "operator", head)
    while (shorter := re.sub(r"\([^()]*\)", " () ", outside.replace(" () ", ""))) != outside:
        outside = shorter
        if not re.search(r"\([^()]+\)", outside):
            break
    if re.search(r"=", outside.split("()")[0] if "()" in outside else outside):
        return "function" if re.search(r"= *\[", head) else "value"
    return "function" if "(" in head else "value"


def cpp_functions(text):
    """(first line, last line, name) of each function body at namespace or class level."""
    code = strip_cpp(text)
    stack = []  # (kind, first line, head) of each open brace
    functions = []
    head_begin = 0
    for i, c in enumerate(code):
        if c not in "{};":
            continue
        inside = stack[-1][0] if stack else "container"
        if c == ";" and inside == "container":
            head_begin = i + 1
        elif c == "{":
            kind = "inner"
            head = code[head_begin:i]
            if inside == "container":
                kind = _kind_of_block(
                    head, glued=i > 0 and not code[i - 1].isspace() and code[i - 1] != ")"
                )
            first = code.count("\n", 0, head_begin + len(head) - len(head.lstrip())) + 1
            stack.append((kind, first, head))
            if kind == "container":
                head_begin = i + 1
        elif c == "}" and stack:
            kind, first, head = stack.pop()
            if kind == "function":
                functions.append((first, code.count("\n", 0, i) + 1, _name(head)))
            if kind in ("function", "container"):
                head_begin = i + 1
    return functions


def _name(head):
    match = re.search(r"([\w:~]+|operator\W+?)\s*\(([^()]*)", head)
    if not match:
        return "a function"
    return (
        f"{match.group(1)}({match.group(2)})"
        if match.group(1).startswith("TEST")
        else match.group(1)
    )


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.end_lineno, node.name


# Rules. Each takes a file's name and text and yields problems.


def folder_of(name):
    parts = name.split("/")
    if parts[0] != "src":
        return None
    return parts[1] if len(parts) > 2 else "main"


def check_includes(name, text):
    folder = folder_of(name)
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)', line)
        if not match:
            continue
        included = match.group(2)
        for pattern, places in RESERVED_HEADERS:
            if folder and pattern.fullmatch(included) and not name.startswith(places):
                yield problem(
                    name, number, "include", f"<{included}> belongs in {' and '.join(places)} only"
                )
        if folder is None or match.group(1) == "<":
            continue
        target = included.split("/")[0] if "/" in included else None
        if target not in FOLDERS or folder not in FOLDERS:
            yield problem(
                name,
                number,
                "include",
                f'"{included}": written FOLDER/FILE, of the folders known here',
            )
        elif FOLDERS.index(target) > FOLDERS.index(folder) or target in NOT_EVEN.get(folder, ()):
            yield problem(name, number, "include", f"{folder} must not know {target}")


def check_columns(name, text):
    bound = CPP_COLUMNS_MAX if is_cpp(name) else PYTHON_COLUMNS_MAX
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > bound:
            yield problem(name, number, "columns", f"{len(line)} columns, at most {bound}")


def check_functions(name, text):
    functions = cpp_functions(text) if is_cpp(name) else python_functions(text)
    for first, last, function in functions:
        lines = last - first + 1
        if lines > FUNCTION_LINES_MAX:
            yield problem(
                name,
                first,
                "function",
                f"{function} has {lines} lines, at most {FUNCTION_LINES_MAX}",
            )


def check_opening(name, text):
    if not text.startswith("// "):
        yield problem(
            name, 1, "opening", "a file opens with a comment: what it does, what it does not"
        )


def check_words(name, text):
    rules = [
        (UNFINISHED, "unfinished"),
        (MACHINE_PATH, "machine path"),
        (REGISTRY_HOST, "registry host"),
    ]
    if name.startswith("src/"):
        rules.append((WRONG_WORD, "word (say client or backend)"))
        rules.append((CHOSEN_AWAIT, "co_await of a conditional: GCC 12 destroys its frame twice"))
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, rule in rules:
            if match := pattern.search(line):
                yield problem(name, number, rule, match.group())


def check_file(name, text):
    """Every rule that looks at one file alone."""
    yield from check_words(name, text)
    if is_cpp(name):
        for rule in (check_includes, check_columns, check_functions, check_opening):
            yield from rule(name, text)
    elif is_python(name, text):
        for rule in (check_columns, check_functions):
            yield from rule(name, text)


def check_tests_run(root, names):
    """Each test file is one that ctest or pytest finds."""
    cmake = read_text(root / "CMakeLists.txt") or ""
    folders = set(re.findall(r"^folder\((\w+)", cmake, re.MULTILINE))
    for name in names:
        text = read_text(root / name) or ""
        if name.endswith("_test.cc"):
            parts = name.split("/")
            if not (len(parts) == 3 and parts[0] == "src" and parts[1] in folders):
                yield problem(name, 1, "not run", "CMakeLists.txt names no folder() with this test")
        elif re.fullmatch(r"(.*/)?(test_[^/]*|[^/]*_test)\.py", name):
            if not re.fullmatch(r"tests/test_\w+\.py", name):
                yield problem(name, 1, "not run", "pytest's files are tests/test_NAME.py")
            if not re.search(r"^\s*(async )?def test_", text, re.MULTILINE):
                yield problem(name, 1, "not run", "holds no test function")
        elif name.endswith("_fuzz.cc"):
            target = pathlib.PurePath(name).stem
            if not name.startswith("fuzz/") or not any(
                n.startswith(f"fuzz/corpus/{target}/") for n in names
            ):
                yield problem(name, 1, "not run", f"no corpus in fuzz/corpus/{target}")


def check_format(root, names):
    files = [name for name in names if is_cpp(name)]
    if not files:
        return
    done = subprocess.run(
        [CLANG_FORMAT, "--dry-run", "-Werror", *files], cwd=root, capture_output=True, text=True
    )
    blamed = set()
    for match in re.finditer(r"^(\S+?):(\d+):\d+: error:", done.stderr, re.MULTILINE):
        if match[1] not in blamed:  # one line for each file is enough
            blamed.add(match[1])
            yield problem(
                match[1], match[2], "format", "not as clang-format 14 writes it; run: make format"
            )
    if done.returncode != 0 and not blamed:
        yield problem(".clang-format", 1, "format", done.stderr.strip() or "clang-format failed")


def check(root):
    names = project_files(root)
    for name in names:
        text = read_text(root / name)
        if text is not None:
            yield from check_file(name, text)
    yield from check_tests_run(root, names)
    yield from check_format(root, names)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else __file__).resolve()
    root = root if root.is_dir() else root.parent.parent.parent
    problems = list(check(root))
    for line in problems:
        print(line)
    print(f"style: {len(project_files(root))} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
