"""Checks of a script before it runs, and the declarations that tools check it against."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
import unittest
from contextlib import nullcontext
from pathlib import Path
from shutil import which

import snowboot
from snowboot.checks.names import unknown_names
from snowboot.interactive import Session
from snowboot.source import Script
from support import Scratch, manifest

# Of the kinds that real scripts are: nothing may complain of it.
SCRIPT = '''"""About this."""
from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

start_all()


def ready(m: Machine) -> None:
    m.wait_for_unit("multi-user.target", timeout=timedelta(minutes=2))
    m.wait_for_open_port("80")
    m.wait_for_file(Path("/etc/hostname"), timeout=3)


for m in machines:
    ready(m)
with subtest(f"web answers {len(machines)}"):
    out = web.succeed("true", f"curl {db_1.name}", timeout=10)
    t.assertIn("x", out)
    assert re.search("x", web.execute("true")[1].strip()) is None
retry(lambda last: web.execute("true")[0] == 0, timeout=60)
db_1.sleep(1)
log.info("done", driver.out_dir / "x", vlans, os.environ.get("HOME"))
'''


class Checked(Scratch):
    def check(
        self, script: str, *options: str, module: str = "snowboot.check", path: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Checks a script; without `path` no tool is installed."""
        manifest_path = self.write(manifest(script, {"web": "", "db-1": ""}))
        bare = self.folder / "bare"
        bare.mkdir(exist_ok=True)
        # An interpreter with nothing beside it.
        link = bare / "python3"
        if not link.exists():
            link.symlink_to(sys.executable)
            for name in ("bash", "kill", "touch"):
                (bare / name).symlink_to(which(name) or name)
        environment = {
            **self.environment(), "PATH": path or str(bare), "SNOWBOOT_CACHE_DIR": str(self.folder / "cache"),
            "PYTHONHOME": sys.base_prefix,
        }
        tail = ["-o", self.folder] if module == "snowboot.runner" else []
        return subprocess.run(
            [link, "-m", module, manifest_path, *tail, *options], env=environment, capture_output=True, text=True,
            timeout=120, check=False)

    def tool(self, name: str, words: str, status: int) -> str:
        """A PATH with a tool on it that says this."""
        folder = self.folder / "tools"
        folder.mkdir(exist_ok=True)
        program = folder / name
        program.write_text(
            f"#!/bin/sh\necho \"$@\" > {self.folder}/{name}.arguments\ncp *.py* {self.folder}\nprintf '%s' '{words}'\n"
            f"exit {status}\n")
        program.chmod(0o755)
        return f"{folder}:/usr/bin:/bin"


class WithoutTools(Checked):
    def test_what_is_not_checked_is_said_with_what_to_install(self) -> None:
        run = self.check(SCRIPT)
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        self.assertEqual(run.stdout.splitlines(), [
            "ok       manifest", "ok       syntax", "ok       names",
            "skipped  types: ty or mypy is not installed; `pip install ty` gets it",
            "skipped  lint: ruff is not installed; `pip install ruff` gets it",
        ])

    def test_names_without_anything_behind_them_are_found(self) -> None:
        run = self.check("web.succeed('true')\n\ndef f():\n    wbe.succeed('true')\n")
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn("failed   names\n  <test script>:4: error: nothing is called `wbe`\n", run.stdout)
        self.assertEqual(self.check("wbe\n", "--skip-lint").returncode, 0)

    def test_what_is_no_python_is_found(self) -> None:
        for script in ("x = 1\nif x\n", "x = 1\nreturn x\n"):
            run = self.check(script, "--skip-lint", "--skip-type-check")
            self.assertEqual(run.returncode, 1, run.stderr)
            self.assertIn("failed   syntax", run.stdout)
            self.assertIn('File "<test script>", line 2', run.stdout)

    def test_a_script_may_be_a_file(self) -> None:
        script = self.write("nothing\n", "my.py")
        path = self.write(manifest("").replace("test-script = '''\n'''", "script = 'my.py'"))
        run = subprocess.run(
            [sys.executable, "-m", "snowboot.check", path, "--skip-type-check"], env=self.environment(),
            capture_output=True, text=True, timeout=60)
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn(f"{script}:1: error: nothing is called `nothing`", run.stdout)

    def test_bad_input_is_one_line_and_a_wrong_command_line_is_2(self) -> None:
        self.assertEqual(self.check("", "--unknown").returncode, 2)
        path = self.write("name = 'x'\nscrpt = 'y'\n", "wrong.toml")
        run = subprocess.run(
            [sys.executable, "-m", "snowboot.check", path], env=self.environment(), capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout), (1, ""))
        self.assertRegex(run.stderr, "^snowboot: error: [^\n]*did you mean `script`[^\n]*\n$")

    def test_a_run_refuses_before_anything_starts(self) -> None:
        script = f"web.succeed('touch {self.folder}/started')\nwbe.start()\n"
        run = self.check(script, module="snowboot.runner")
        self.assertEqual(run.returncode, 1)
        self.assertIn("<test script>:2: error: nothing is called `wbe`\nsnowboot: error: The test script was not ",
                      run.stderr)
        self.assertFalse((self.folder / "started").exists())
        run = self.check(script, "--skip-lint", module="snowboot.runner")
        self.assertIn("NameError: name 'wbe' is not defined", run.stderr)
        self.assertTrue((self.folder / "started").exists())


class WithTools(Checked):
    """With tools that say what they are told to."""

    def test_complaints_have_the_script_s_lines(self) -> None:
        script = "from __future__ import annotations\nweb.succeed()\n"
        words = (
            "script.py:1:1: error[x] before\nscript.py:3:5: error[y] after\nscript.py:3:5: warning[z] no matter\n"
            "script.py:3:1: error[unresolved-import] no matter\nFound 4 diagnostics\n")
        path = self.tool("ty", words, 1)
        run = self.check(script, path=path)
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn(
            "failed   types (ty)\n  <test script>:1:1: error[x] before\n  <test script>:2:5: error[y] after\nskipped  lint",
            run.stdout)
        self.assertEqual(
            (self.folder / "script.py").read_text(),
            "from __future__ import annotations\nfrom test_script_globals import *\nweb.succeed()\n")
        self.assertIn("web: Machine\n", (self.folder / "test_script_globals.pyi").read_text())
        self.assertIn("skipped  types: as --skip-type-check asks",
                      self.check(script, "--skip-type-check", path=path).stdout)

    def test_lint_knows_the_names_and_no_style(self) -> None:
        path = self.tool("ruff", "script.py:1:8: F401 [*] `os` imported but unused\n", 1)
        run = self.check("import os\n", path=path)
        self.assertIn("failed   lint (ruff)\n  <test script>:1:8: F401 `os` imported but unused\n", run.stdout)
        arguments = (self.folder / "ruff.arguments").read_text()
        for part in ("--isolated", "--select F ", '"db_1"', '"start_all"', '"web"'):
            self.assertIn(part, arguments)

    def test_ty_is_asked_before_mypy(self) -> None:
        path = self.tool("mypy", "script.py:2: error: bad  [x]\n", 1)
        self.assertIn("types (mypy)\n  <test script>:1: error: bad  [x]\n", self.check("1\n", path=path).stdout)
        self.assertIn(f"--cache-dir {self.folder}/cache/mypy", (self.folder / "mypy.arguments").read_text())
        self.tool("ty", "", 0)
        self.assertIn("ok       types (ty)\n", self.check("1\n", path=path).stdout)

    def test_a_tool_in_trouble_gives_no_verdict(self) -> None:
        path = self.tool("ty", "it is broken\n", 2)
        run = self.check("1\n", path=path)
        self.assertEqual(run.returncode, 1)
        self.assertIn("failed   types (ty): ty ended with status 2: it is broken", run.stdout)
        run = self.check("1\n", path=path, module="snowboot.runner")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("??? the check of types (ty) could not be made: ty ended with status 2", run.stderr)


class RealTools(Checked):
    """With those that this host has."""

    def test_scripts_as_they_are_pass_and_mistakes_do_not(self) -> None:
        for name in ("ty", "mypy", "ruff"):
            found = which(name)
            if found is None or subprocess.run([found, "--version"], capture_output=True).returncode != 0:
                continue
            with self.subTest(name):
                folder = self.folder / f"only-{name}"
                folder.mkdir()
                (folder / name).symlink_to(found)
                path = f"{folder}:/usr/bin:/bin"
                run = self.check(SCRIPT, path=path)
                self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
                self.assertIn(f"({name})", run.stdout)
                bad = SCRIPT + ("import json\n" if name == "ruff" else "web.succeed(['true'])\nweb.wait_for_untt('x')\n")
                run = self.check(bad, path=path)
                self.assertEqual(run.returncode, 1, run.stdout + run.stderr)
                self.assertIn(f"  <test script>:{SCRIPT.count(chr(10)) + 1}:", run.stdout)


class Names(unittest.TestCase):
    def unknown(self, script: str) -> list[tuple[str, int]]:
        return unknown_names(Script(script, "x"), ["web", "start_all"])

    def test_of_any_kind_are_known(self) -> None:
        for script in (
            "import a.b, c as d\nfrom e import f as g\na, d, g", "class A:\n    x = 1\n    y = x\n    z: int = 2\nA",
            "def f(a, *b, c=1, **d):\n    global later\n    later = a, b, c, d\n    return f\nlater",
            "for i, (j, *k) in []: i, j, k", "with open('x') as (a, b): a, b", "[x for x in [1] if (y := x)]\ny",
            "def f():\n    def g():\n        nonlocal v\n        v = 2\n    v = 1\n    return g, late\nlate = 1",
            "try: pass\nexcept OSError as error: error", "match 1:\n    case [a, *b]: a, b\n    case {'x': c, **d}: c, d",
            "x: int\nx", "lambda a: a", "__name__, __doc__, print, ValueError", "web, start_all",
            "from os import *\npath", "exec('x = 1')\nx", "globals()['x'] = 1\nx", "try: x\nexcept NameError: pass",
        ):
            with self.subTest(script):
                self.assertEqual(self.unknown(script), [])

    def test_with_nothing_behind_them_are_found_with_their_first_lines(self) -> None:
        script = "web\nstrat_all()\ndef f(a):\n    return a, b\nclass C:\n    x = 1\n    def f(self): return x\nb\n"
        self.assertEqual(self.unknown(script), [("strat_all", 2), ("b", 4), ("x", 7)])


class Declarations(Scratch):
    """`script_globals.pyi` says what is so."""

    def test_every_name_of_a_script_is_declared_as_it_is(self) -> None:
        names = Session(self.driver(), lambda: nullcontext()).names
        path = Path(snowboot.__file__).with_name("script_globals.pyi")
        declared: dict[str, ast.stmt | None] = {}
        body = ast.parse(path.read_text()).body
        for node, after in zip(body, [*body[1:], None]):
            match node:
                case ast.FunctionDef(name=name):
                    self.assertTrue(ast.get_docstring(node), f"{name} has no explanation")
                    # One of several forms says only a part.
                    declared[name] = None if node.decorator_list else node
                case ast.AnnAssign(target=ast.Name(id=name)):
                    self.assertIsInstance(after, ast.Expr, f"{name} has no explanation")
                    declared[name] = None
                case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                    # Only what is named twice is there for others.
                    declared.update({alias.name: None for alias in aliases if alias.asname == alias.name})
        self.assertEqual(sorted(declared), sorted(set(names) - {"machine", "vlan1", "__name__"}))
        for name, node in declared.items():
            if node is not None:
                scope: dict[str, object] = {}
                exec(f"from __future__ import annotations\n{ast.unparse(node)}", scope)
                self.assertEqual(_shape(scope[name]), _shape(names[name]), name)

    def test_every_method_has_an_explanation_and_types(self) -> None:
        for cls in (snowboot.Machine, snowboot.Driver, snowboot.Logger):
            for name, member in inspect.getmembers(cls):
                if name.startswith("_") or not (inspect.isfunction(member) or isinstance(member, property)):
                    continue
                function = member.fget if isinstance(member, property) else member
                with self.subTest(f"{cls.__name__}.{name}"):
                    self.assertTrue(inspect.getdoc(member))
                    signature = inspect.signature(function)
                    self.assertIsNot(signature.return_annotation, inspect.Signature.empty)
                    for parameter in list(signature.parameters.values())[1:]:
                        self.assertIsNot(parameter.annotation, inspect.Parameter.empty, parameter.name)


def _shape(function: object) -> list[tuple[str, object, object]]:
    assert callable(function)
    return [(it.name, it.kind, it.default) for it in inspect.signature(function).parameters.values()]


if __name__ == "__main__":
    unittest.main()
