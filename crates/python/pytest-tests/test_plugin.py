"""The pytest plugin of an installed wheel, over the fake device of a build with the feature `testing`."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

MANIFEST = """
name = "example"
test-script = "pass"
[machines.server]
kernel = "k"
[machines.web-1]
kernel = "k"
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("SNOWBOOT_KVM_DEVICE", "fake")
    (pytester.path / "test.toml").write_text(MANIFEST)
    return pytester


def test_machines_are_fixtures_by_name(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        def test_names(server, web_1, machines, snowboot_machine):
            assert machines == [server, web_1]
            assert snowboot_machine("web-1") is web_1
            assert server.succeed("echo hi") == "hi\\n"

        def test_the_module_shares_them(server, snowboot_driver):
            assert server.booted and snowboot_driver.machine("web-1").booted
        """
    )
    project.runpytest_subprocess("--snowboot-manifest=test.toml").assert_outcomes(passed=2)


def test_a_module_names_its_manifest(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.snowboot(manifest="test.toml")

        def test_it(snowboot_machine):
            snowboot_machine("server").succeed("true")

        def test_unknown(snowboot_machine):
            snowboot_machine("nobody")
        """
    )
    result = project.runpytest_subprocess("--strict-markers")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*has no machine 'nobody'; it has server, web-1"])


def test_a_failure_tells_what_the_driver_knows(project: pytest.Pytester) -> None:
    (project.path / "pytest.ini").write_text("[pytest]\nsnowboot_manifest = test.toml\n")
    project.makepyfile("def test_it(server):\n    server.succeed('echo out; exit 9')\n")
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*command `echo out; exit 9` failed (exit code 9)*"])


def test_without_a_manifest_the_error_says_what_to_do(project: pytest.Pytester) -> None:
    project.makepyfile("def test_it(snowboot_driver): pass\n")
    result = project.runpytest_subprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*give --snowboot-manifest FILE*"])


def test_a_mark_without_effect_is_refused(project: pytest.Pytester) -> None:
    project.makepyfile(
        """
        import pytest

        @pytest.mark.snowboot(manifest="other.toml")
        def test_marked(server): pass

        @pytest.mark.snowboot("other.toml")
        class TestMarked:
            def test_in_it(self, server): pass

        def test_plain(server): pass
        """
    )
    result = project.runpytest_subprocess("--snowboot-manifest=test.toml")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*`snowboot` on test_marked has no effect*", "*`snowboot` on TestMarked has no effect*"])


def test_workers_have_machines_of_their_own(project: pytest.Pytester) -> None:
    test = "def test_it(server):\n    server.succeed('echo $$ >>pids')\n"
    project.makepyfile(test_one=test, test_two=test)
    project.runpytest_subprocess("--snowboot-manifest=test.toml", "-n", "2").assert_outcomes(passed=2)
    pids = (project.path / "pids").read_text().split()
    assert len(pids) == len(set(pids)) == 2
