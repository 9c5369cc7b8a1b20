#!/usr/bin/python3
"""Shows that each rule of check.py and check_docs.py finds what it is for, and leaves alone what is right."""

import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

import check
import check_docs

OPENING = "// What it does.\n"
LONG_BODY = "  step();\n" * 68


def spell(text):
    """Without the brackets that keep a bad word from being found in this file."""
    return text.replace("[", "").replace("]", "")


def rules(problems):
    return [problem.split(": ")[1] for problem in problems]


class Includes(unittest.TestCase):
    def includes(self, name, *lines):
        return rules(check.check_includes(name, "".join(f"#include {line}\n" for line in lines)))

    def test_only_to_the_left(self):
        bad = [
            ("src/base/log.cc", '"config/config.h"'),
            ("src/http/head.h", '"net/socket.h"'),
            ("src/api/chat.cc", '"billing/event.h"'),
            ("src/billing/ledger.cc", '"db/open.h"'),
            ("src/net/socket.cc", '"api/sse.h"'),
            ("src/net/socket.cc", '"billing/event.h"'),
            ("src/proxy/request.cc", '"db/open.h"'),
            ("src/proxy/request.cc", '"cli/check.h"'),
            ("src/proxy/request_test.cc", '"db/sqlite.h"'),
            ("src/proxy/request.cc", '"other/thing.h"'),
            ("src/proxy/request.cc", '"request.h"'),
            ("src/base/log.cc", '   "proxy/server.h"  // why'),
        ]
        for name, line in bad:
            self.assertEqual(self.includes(name, line), ["include"], (name, line))
        good = [
            ("src/base/log.cc", '"base/log.h"'),
            ("src/proxy/request.cc", '"net/socket.h"'),
            ("src/cli/serve.cc", '"db/open.h"'),
            ("src/main.cc", '"cli/arguments.h"'),
            ("fuzz/chunked_fuzz.cc", '"head_properties.h"'),
        ]
        for name, line in good:
            self.assertEqual(self.includes(name, line), [], (name, line))

    def test_drivers_and_sockets_have_their_place(self):
        for header in ("mongoc/mongoc.h", "bson/bson.h", "sqlite3.h"):
            self.assertEqual(
                self.includes("src/billing/shipper.cc", f"<{header}>"), ["include"], header
            )
            self.assertEqual(self.includes("src/db/open.cc", f"<{header}>"), [], header)
        for header in ("sys/socket.h", "sys/epoll.h", "netdb.h", "netinet/tcp.h", "openssl/ssl.h"):
            self.assertEqual(
                self.includes("src/proxy/session.cc", f"<{header}>"), ["include"], header
            )
            self.assertEqual(self.includes("src/net/socket.cc", f"<{header}>"), [], header)
        self.assertEqual(
            self.includes("src/base/digest.cc", "<openssl/evp.h>", "<openssl/rand.h>"), []
        )
        self.assertEqual(self.includes("src/base/clock.cc", "<openssl/evp.h>"), ["include"])
        self.assertEqual(self.includes("src/base/digest.cc", "<openssl/ssl.h>"), ["include"])


class Functions(unittest.TestCase):
    def long_ones(self, text):
        return rules(check.check_functions("src/base/sample.cc", OPENING + text))

    def test_too_long(self):
        heads = [
            "void f() {\n",
            "static Result<std::map<int, int>> f(const A& a,\n    int b = 3) {\n",
            "template <class T, class = void>\nauto f(T t) -> int {\n",
            "namespace a {\nclass B : public C {\n public:\n  void f() const override {\n",
            "struct S {\n  bool operator==(const S& o) const {\n",
            "S::S(int a) : a_{a}, b_(std::move(a)) {\n",
            "S::S(int a)\n    : a_{a}, b_{1, 2} {\n",
            "TEST(Group, Name) {\n",
            'extern "C" {\nint f() {\n',
            "const auto f = [](int a) {\n",
            'extern "C" int f(const uint8_t* data) {\n',
            "Task<void> Server::run(std::function<void()> then) noexcept {\n",
            "const char* brace() { return \"}\"; }\nvoid f() {\n  char c = '{';\n",
            'const auto raw = R"x({{{ "" )x";\nint n = 10\'000;\nvoid f() {\n',
            "/* { */ // {\nvoid f() {  // {\n",
            "#define OPEN {\nvoid f() {\n",
        ]
        for head in heads:
            self.assertEqual(
                self.long_ones(head + "\n" * 2 + LONG_BODY + "}\n"), ["function"], head
            )

    def test_long_enough(self):
        fine = [
            "void f() {\n" + LONG_BODY + "}\n",  # 70 lines
            "namespace a {\n" + "int b();\n" * 200 + "}  // namespace a\n",
            "class A {\n" + "  int b() const { return 1; }\n" * 200 + "};\n",
            "enum class E : int {\n" + "  kA,\n" * 200 + "};\n",
            "const std::array kTable{\n" + '    Row{"", 1},\n' * 200 + "};\n",
            "const Row kTable[] = {\n" + "    {f(1), 2},\n" * 200 + "};\n",
            "void f() {\n  if (a) {\n  }\n}\n" * 100,
        ]
        for text in fine:
            self.assertEqual(self.long_ones(text), [], text[:60])

    def test_counts_from_head_to_brace(self):
        found = check.cpp_functions("// x\n\nint f(\n    int a) {\n  return a;\n}\n")
        self.assertEqual(found, [(3, 6, "f")])

    def test_python(self):
        text = "def f():\n" + "    a()\n" * 70
        self.assertEqual(rules(check.check_functions("tests/a.py", text)), ["function"])
        self.assertEqual(rules(check.check_functions("tests/a.py", text[: -len("    a()\n")])), [])


class Lines(unittest.TestCase):
    def test_columns(self):
        for name, bound in (("src/base/a.cc", 100), ("tests/a.py", 120)):
            self.assertEqual(rules(check.check_columns(name, "x" * (bound + 1))), ["columns"])
            self.assertEqual(rules(check.check_columns(name, "x" * bound + "\n")), [])

    def test_opening(self):
        self.assertEqual(rules(check.check_file("src/base/a.h", "#pragma once\n")), ["opening"])
        self.assertEqual(rules(check.check_file("src/base/a.h", OPENING + "#pragma once\n")), [])

    def test_words(self):
        bad = {
            "unfinished": ["[T]ODO: later", "// [F]IXME", "[X]XX", "[H]ACK"],
            "machine path": ["/[w]ork/main", "see /[r]oot/x", "/tmp/[b]ash_jobs"],
            "registry host": [
                "https://[p]ypi.org/simple",
                "registry.[n]pmjs.org",
                "[d]eb.debian.org/debian",
            ],
        }
        for rule, texts in bad.items():
            for text in texts:
                self.assertEqual(rules(check.check_words("docs/a.md", spell(text))), [rule], text)
        for word in ("up[s]tream", "Down[s]treams"):
            self.assertEqual(len(rules(check.check_words("src/net/a.cc", spell(word)))), 1, word)
            self.assertEqual(rules(check.check_words("tests/a.py", spell(word))), [], word)
        chosen = "error = co_await (is_plain ? plain(a) : stream(a));"
        self.assertEqual(len(rules(check.check_words("src/net/a.cc", chosen))), 1)
        awaited = "x = is_plain ? co_await plain(a) : 0; (void)co_await (step);"
        self.assertEqual(rules(check.check_words("src/net/a.cc", awaited)), [])
        fine = spell("method, XXXL, hacker, client, backend, tests/wo[r]k/x, ${PREFIX}/ro[o]t")
        self.assertEqual(rules(check.check_words("src/net/a.cc", fine)), [])


class Repository(unittest.TestCase):
    """Rules that look at the repository as a whole."""

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.root = pathlib.Path(self.directory.name)
        subprocess.run(["git", "init", "-q", self.root], check=True)
        self.write("CMakeLists.txt", "folder(base)\n")
        self.write(".clang-format", "BasedOnStyle: Google\n")

    def write(self, name, text):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def found(self):
        return sorted(rules(check.check(self.root)))

    def test_clean(self):
        self.write("src/base/a.cc", OPENING + "int f() { return 1; }\n")
        self.write("src/base/a_test.cc", OPENING + "TEST(A, B) {}\n")
        self.write("tests/test_a.py", "def test_a():\n    pass\n")
        self.write("fuzz/a_fuzz.cc", OPENING)
        self.write("fuzz/corpus/a_fuzz/1", "seed")
        self.assertEqual(self.found(), [])

    def test_format(self):
        self.write("src/base/a.cc", OPENING + "int  f( ) {return 1;}\n")
        self.assertEqual(self.found(), ["format"])

    def test_tests_that_nothing_runs(self):
        self.write("src/lost/a_test.cc", OPENING + "TEST(A, B) {}\n")
        self.write("tests/deep/test_a.py", "def test_a():\n    pass\n")
        self.write("tests/test_b.py", "def check_b():\n    pass\n")
        self.write("tests/c_test.py", "def test_c():\n    pass\n")
        self.write("fuzz/d_fuzz.cc", OPENING)
        self.assertEqual(self.found(), ["not run"] * 5)

    def test_ignored_and_binary_files_are_left_alone(self):
        self.write(".gitignore", "/build/\n")
        self.write("build/a.py", spell("# [T]ODO\n"))
        (self.root / "picture").write_bytes(b"\xff\xfe" + spell("[T]ODO").encode())
        self.assertEqual(self.found(), [])

    def test_exit_status(self):
        script = pathlib.Path(check.__file__)
        run = [script, self.root]
        self.assertEqual(subprocess.run(run, capture_output=True).returncode, 0)
        self.write("src/base/a.cc", "int f();\n")
        done = subprocess.run(run, capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("src/base/a.cc:1: opening: ", done.stdout)


class Documents(unittest.TestCase):
    """A copy of the real documents with one mistake must give exactly that complaint."""

    FILES = [
        "README.md", "config.toml", check_docs.MANUAL, check_docs.FILE_MANUAL,
        "src/config/settings.cc", "src/config/load.cc", "src/config/config.h",
    ]  # fmt: skip

    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.root = pathlib.Path(self.directory.name)
        for name in self.FILES:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pathlib.Path(check.__file__).parents[2] / name, self.root / name)

    def complaints_after(self, name, pattern, replacement):
        path = self.root / name
        original = path.read_text()
        changed, count = re.subn(pattern, replacement, original, count=1, flags=re.MULTILINE)
        self.assertEqual(count, 1, (name, pattern))
        path.write_text(changed)
        found = list(check_docs.check(self.root))
        path.write_text(original)
        return found

    def test_settings(self):
        cases = [
            ("README.md", r"^\| `auth.key_ttl`.*\n", "", "missing"),
            ("README.md", r"^\| `auth.key_ttl`", "| `auth.key_tll`", "missing|no such setting"),
            ("README.md", r"`10` \| 0 to 3600", "`11` | 0 to 3600", "default is 10"),
            ("README.md", r"`10` \| 0 to 3600", "`10` | 0 to 3601", "bounds are 0 to 3600"),
            ("README.md", r'`"COMPLETION"`', '`"OTHER"`', 'default is "COMPLETION"'),
            ("README.md", r"0 to 65535 \| restart", "0 to 65535 | live", "needs a restart"),
            ("config.toml", r"^#key_ttl.*\n", "", "missing"),
            ("config.toml", r"^#key_ttl = 10 ", "#key_ttl = 20 ", "default is 10"),
            ("config.toml", r"^(#key_ttl.*)3600", r"\g<1>360", "bounds are 0 to 3600"),
            ("config.toml", r"^#   ca_file", "#   ca_fill", "missing"),
            (
                check_docs.FILE_MANUAL,
                r"^\.It Ic key_ttl",
                ".It Ic key_tell",
                "missing|no such setting",
            ),
            (
                check_docs.FILE_MANUAL,
                r"0 to 3600, default 10\.",
                "0 to 3600, default 12.",
                "default is 10",
            ),
            (check_docs.FILE_MANUAL, r"default 8080, restart", "default 8080", "needs a restart"),
            (check_docs.FILE_MANUAL, r"^\.El$", "", "WARNING|ERROR"),
            (
                "src/config/settings.cc",
                r"key_ttl, 0, kHour",
                "key_ttl, 0, 2 * kHour",
                "bounds are 0 to 7200",
            ),
            ("src/config/config.h", r"key_ttl\{10'000\}", "key_ttl{9'000}", "default is 9"),
        ]
        for name, pattern, replacement, complaint in cases:
            found = self.complaints_after(name, pattern, replacement)
            self.assertTrue(
                found and all(re.search(complaint, line) for line in found), (name, pattern, found)
            )

    def test_options(self):
        """A stand-in for the program, whose --help lacks one option and has one too many."""
        manual = (self.root / check_docs.MANUAL).read_text()
        options = set(re.findall(r"Fl -([a-z][a-z-]+)", manual))
        commands = set(re.findall(r"^\.It Ic ([a-z]+)", manual, re.MULTILINE))
        actions = re.findall(r"^\.It Ic ([a-z]+) ([a-z]+)", manual, re.MULTILINE)

        def listing(names):
            return "\\n".join(["Subcommands:", *(f"  {name}  words" for name in sorted(names))])

        def program(options):
            text = "\\n".join([*(f"  --{name} TEXT" for name in sorted(options)), "", listing(commands)])
            script = f"#!/bin/sh\ncase \"$1 $2\" in\n'--help ') printf '{text}\\n' ;;\n"
            for group in {group for group, _ in actions}:
                names = {name for of, name in actions if of == group}
                script += f"'{group} --help') printf '{listing(names)}\\n' ;;\n"
            path = self.root / "program"
            path.write_text(script + "esac\n")
            path.chmod(0o755)
            return list(check_docs.check_manual(path, manual))

        self.assertEqual(program(options), [])
        found = program((options - {"expires"}) | {"new-option"})
        self.assertEqual(len(found), 2, found)
        self.assertIn("--new-option: missing", found[0])
        self.assertIn("--expires: the program does not know it", found[1])


if __name__ == "__main__":
    unittest.main()
