"""What must not happen whatever anybody names or prints: a shell that obeys it, a secret that is told."""

import ast
import json
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import pytest

import edgecomp
from edgecomp.bench import bench_bundle, read_benchmark_files
from edgecomp.bundle.manifest import FileEntry
from edgecomp.bundle.writer import MANIFEST_NAME
from edgecomp.errors import BenchmarkError, BundleError
from edgecomp.files import sha256_of
from edgecomp.transports import connect
from tests import bench_device
from tests.bench_device import QUICK, QUICK_WORDS, Visit, at_most, complaint, program
from tests.sshd import make_key, running_sshd, ssh_keygen
from tests.test_agent import HEADER, talk
from tests.test_bench_hostile import IN_THE_MIDDLE, say
from tests.test_ssh_login import ssh_agent

server = bench_device.server
device = bench_device.device
bundle = bench_device.bundle

SOURCES = sorted(Path(edgecomp.__file__).parent.rglob("*.py"))
# Everything that a shell would do something with; every command in it makes a file named "x".
ODD_NAME = "-a b'c\"d;touch x;$(touch x)`touch x`&touch x|*~\\é #{},<>"


FORBIDDEN = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "eval", "exec", "pty.spawn"}


def shell_strings(tree):
    """Calls that give a text to a shell, run a text as a program, or unpickle one, as "line: what"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple) and is_script_of_input(node):
            yield f"{node.lineno}: a script with something in it"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if any(keyword.arg == "shell" for keyword in node.keywords):
            yield f"{node.lineno}: shell="
        if any(keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False" for keyword in node.keywords):
            yield f"{node.lineno}: allow_pickle"
        if name in FORBIDDEN or name.endswith(("create_subprocess_shell", "pickle.load", "pickle.loads")):
            yield f"{node.lineno}: {name}"
        if name.endswith("create_process") and not ast.unparse(node.args[0]).startswith("shlex.join("):
            yield f"{node.lineno}: {name} without shlex.join"
        is_command = name.startswith(("subprocess.", "os.exec")) or name.endswith("transport.run")
        if is_command and node.args and (is_text(node.args[0]) or isinstance(node.args[0], ast.Constant)):
            yield f"{node.lineno}: {name} of a text"


def is_text(node):
    """Whether an expression makes up a text: an f-string, a sum, a format, a join."""
    if isinstance(node, ast.BinOp):
        return any(is_text(one) or isinstance(one, ast.Constant) for one in (node.left, node.right))
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).endswith((".format", ".join")) or ast.unparse(node.func) == "str"
    return isinstance(node, ast.JoinedStr)


def is_script_of_input(node):
    """["sh", "-c", SCRIPT, ...] whose script is made of anything but constants of the module."""
    words = node.elts
    if len(words) < 3 or ast.unparse(words[1]) != "'-c'" or ast.unparse(words[0]) == "'head'" or not is_text(words[2]):
        return False
    inside = list(ast.walk(words[2]))
    bound = {one.id for one in inside if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return any(isinstance(one, ast.Name) and not one.id.isupper() and one.id not in bound for one in inside)


# Nothing at all; a module of ours, read from our own folder; requests and replies between processes of this program.
ALLOWED = {"cli.py": ["exec"], "device_setup/session.py": ["exec"], "executors/local.py": ["pickle.loads"]}


class TestArgumentVectors:
    def test_of_the_whole_package(self):
        found = {}
        for path in SOURCES:
            where = path.relative_to(Path(edgecomp.__file__).parent).as_posix()
            said = [
                what
                for what in shell_strings(ast.parse(path.read_text()))
                if what.split(": ")[1] not in ALLOWED.get(where, ())
            ]
            if said:
                found[where] = said
        assert found == {}

    @pytest.mark.parametrize(
        "code",
        [
            "subprocess.run(command, shell=True)",
            "subprocess.run('ls')",
            "subprocess.Popen(f'ls {path}')",
            "subprocess.check_output('ls ' + path)",
            "transport.run('ls {}'.format(path), timeout_s=1)",
            "transport.run(['sh', '-c', f'ls {path}'], timeout_s=1)",
            "transport.run(['sh', '-c', 'ls ' + path], timeout_s=1)",
            "os.system(command)",
            "eval(answer)",
            "pickle.loads(answer)",
            "np.load(path, allow_pickle=True)",
            "connection.create_process(' '.join(argv))",
        ],
    )
    def test_finds_what_it_looks_for(self, code):
        assert len(list(shell_strings(ast.parse(code)))) == 1


@pytest.mark.device
class TestNames:
    def test_python_and_bundle(self, device, bundle, tmp_path, run_cli, monkeypatch):
        """Over a real login shell, which would do all that the names say."""
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / ODD_NAME
        folder.mkdir()
        shutil.copytree(bundle, folder / ODD_NAME)
        python = program(folder / "python;touch x", f'exec {sys.executable} "$@"')
        names = ["--result", folder / ODD_NAME / "result;$(touch x)", "--junit", folder / "`touch x`"]
        with at_most(60):
            result = run_cli(
                "bench",
                "--host",
                device.target,
                *QUICK_WORDS,
                "--python",
                python,
                *names,
                "--",
                Path(ODD_NAME) / ODD_NAME,
            )
        assert result.exit_code == 4, result.output  # It is no Raspberry Pi 4, and nothing else is wrong.
        measured = json.loads(names[1].read_text())["measurements"][0]
        assert measured["bundle"] == f"{ODD_NAME}/{ODD_NAME}"
        assert measured["golden"]["ok"]
        assert names[3].exists()
        assert list(tmp_path.rglob("x")) == []
        assert not (Path.home() / "x").exists()  # Where commands over SSH start.

    @pytest.mark.parametrize(
        "host",
        [
            "$(touch x)", "`touch x`", "board;touch x", "board|touch", "a&b", "a'b", 'a"b', "a b", "a\nb", "a\\b",
            "a>x", "-oProxyCommand=touch", "pi@-oProxyCommand=touch", "$(touch)@board", "'@board", "{a,b}",
            "bo\x1b[31mard",
        ],
    )  # fmt: skip
    def test_hosts(self, bundle, tmp_path, run_cli, monkeypatch, host):
        """The configuration hands the host to a shell, as some do to get through a proxy."""
        config = tmp_path / "config"
        config.write_text(f'Host *\n  ProxyCommand sh -c "echo %h >>{tmp_path}/asked"\n')
        monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(config))
        monkeypatch.chdir(tmp_path)
        result = run_cli("bench", bundle, "--host", host)
        assert result.exit_code == 2
        assert complaint(result.stderr).startswith("Error: A host looks like [user@]host[:port], got ")
        assert complaint(result.stderr).isprintable()
        fleet = tmp_path / "fleet.toml"
        fleet.write_text(f'[targets.one]\nhost = {json.dumps(host)}\nprofile = "rpi4"\n')
        result = run_cli("bench", bundle, "--fleet", fleet, "--json")
        assert result.exit_code == 1
        assert "A host looks like [user@]host[:port]" in json.loads(result.stdout)["failed"][0]["error"]
        assert sorted(item.name for item in tmp_path.iterdir()) == ["config", "fleet.toml"]

    @pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "a\x1b[31mb"])
    def test_files_of_bundles(self, bundle, tmp_path, name):
        """They are written under their names on hosts of boards."""
        opened = read_benchmark_files(bundle).opened
        entry = FileEntry(sha256=sha256_of(b"x"), bytes=1)
        manifest = opened.manifest.model_copy(update={"files": {**opened.manifest.files, name: entry}})
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            archive.writestr(MANIFEST_NAME, manifest.model_dump_json(by_alias=True))
            for known, data in {**opened.files, name: b"x"}.items():
                archive.writestr(known, data)
        with pytest.raises(BundleError, match="is no plain file name") as caught:
            read_benchmark_files(tmp_path / "b.zip")
        assert caught.value.message.isprintable()

    @pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".", ""])
    def test_files_of_the_keeper(self, tmp_path, monkeypatch, name):
        """Whoever sends them: none lands outside of its folder."""
        (tmp_path / "tmp").mkdir()
        monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
        content = {"name": name, "bytes": 1, "sha256": sha256_of(b"x")}
        messages, _ = talk(None, HEADER | {"files": [content]}, b"x")
        assert messages[-2]["message"] == f"{name!r} is no name of a file."
        assert list((tmp_path / "tmp").iterdir()) == []
        assert [item.name for item in tmp_path.iterdir()] == ["tmp"]


@pytest.mark.device
class TestNothingIsExecuted:
    """A server that writes down every command that it is asked to run."""

    @pytest.fixture
    def asked(self, server, tmp_path, monkeypatch):
        """(target, list of what was asked so far) of a device."""
        script = program(
            tmp_path / "forced",
            f'printf "%s\\n" "$SSH_ORIGINAL_COMMAND" >>{tmp_path}/asked; exec sh -c "$SSH_ORIGINAL_COMMAND"',
        )
        with running_sshd(tmp_path / "sshd", extra=[f"ForceCommand {script}"]) as logging:
            monkeypatch.setenv("EDGECOMP_SSH_CONFIG", str(logging.config))
            yield logging, lambda: (tmp_path / "asked").read_text().splitlines()
            bench_device.wait_until_clean(logging)

    @pytest.mark.parametrize(
        ("folder", "is_removed"),
        [
            ("{tmp}/edgecomp-agent-abc_1", True),
            ("{tmp}/edgecomp-agent-$(touch x)", False),
            ("{tmp}/edgecomp-agent-a;touch x", False),
            ("{tmp}/edgecomp-agent-a b", False),
            ("{tmp}/edgecomp-agent-a\\nb", False),
            ("{tmp}/edgecomp-agent-\\u0000", False),
            ("{tmp}/edgecomp-agent-\\ud800", False),
            ("{tmp}/edgecomp-agent-../../x", False),
            ("{tmp}/../edgecomp-agent-abc", False),
            ("{tmp}", False),
            ("edgecomp-agent-abc", False),
            ("-rf", False),
            ("/", False),
        ],
    )
    def test_folder_that_the_device_names(self, asked, bundle, tmp_path, folder, is_removed):
        """It is removed where the device could not do so itself, if its name is one that a keeper makes."""
        logging, commands = asked
        (logging.tmp / "edgecomp-agent-abc_1").mkdir()
        text = say(f'"type": "hello", "folder": "{folder.format(tmp=logging.tmp)}"}}')
        python = program(tmp_path / "python", f"{text}exit 1")
        with connect(logging.target) as transport, pytest.raises(BenchmarkError, match="ended early"):
            bench_bundle(bundle, transport, **QUICK | {"python": python})
        asked_for = commands()
        assert asked_for[0].startswith(f"{python} -c ")
        assert asked_for[1:] == ([f"rm -rf -- {logging.tmp}/edgecomp-agent-abc_1"] if is_removed else [])
        assert (logging.tmp / "edgecomp-agent-abc_1").exists() == (not is_removed)
        shutil.rmtree(logging.tmp / "edgecomp-agent-abc_1", ignore_errors=True)

    def test_strings_of_a_whole_session(self, asked, bundle, tmp_path):
        """All of them hostile; one command is run, ours."""
        logging, commands = asked
        middle = IN_THE_MIDDLE.replace('"\\x1b[31m', '"; touch /tmp/x; $(touch x)\\x1b[31m')
        (tmp_path / "middle.py").write_text(middle)
        python = program(tmp_path / "python", f'exec {sys.executable} {tmp_path / "middle.py"} "$@"')
        with connect(logging.target) as transport:
            measured = bench_bundle(bundle, transport, **QUICK | {"python": python})
        assert "touch" in measured.facts.kernel
        assert [command.partition(" ")[0] for command in commands()] == [python]


@pytest.mark.device
class TestSecrets:
    PASSPHRASE = "five words nobody would guess"
    TOKEN = "token-4f1d0c"

    def test_none_is_told(self, device, bundle, tmp_path):
        """A key with a passphrase that is in the SSH agent, a token in the environment: a run that goes well, with a
        look at what lies on the device meanwhile, and one that is refused."""
        locked = tmp_path / "locked"
        for suffix in ("", ".pub"):
            shutil.copy(f"{device.identity}{suffix}", f"{locked}{suffix}")
        said = []
        words = (
            bundle,
            "--host",
            device.target,
            *QUICK_WORDS,
            "--min-seconds",
            5,
            "--processes",
            3,
            "--max-processes",
            3,
            "--identity",
            locked,
            "--json",
        )
        files = (tmp_path / "r.json", tmp_path / "r.xml")
        python = program(tmp_path / "python", f'umask 0; exec {sys.executable} "$@"')
        with at_most(90), ssh_agent(tmp_path / "agent", device.identity) as socket_path:
            ssh_keygen("-q", "-p", "-N", self.PASSPHRASE, "-f", str(locked))
            secrets = {"SSH_AUTH_SOCK": socket_path, "API_TOKEN": self.TOKEN, "PASSPHRASE": self.PASSPHRASE}
            with Visit(
                tmp_path, *words, "--python", python, "--result", files[0], "--junit", files[1], **secrets
            ) as visit:
                visit.wait_for("measuring")
                (folder,) = device.tmp.glob("edgecomp-agent-*")
                assert stat.S_IMODE(folder.stat().st_mode) == 0o700  # Whatever umask the device has.
                said += [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
                assert len(said) >= 4  # Agent, job, model, golden samples.
                assert visit.exit_code() == 4, visit.err
        said += [path.read_bytes() for path in files]
        del secrets["SSH_AUTH_SOCK"]
        with at_most(60), Visit(tmp_path, *words, **secrets) as refused:
            assert refused.exit_code() == 1
            assert "refused every key that was offered" in complaint(refused.err)
        said += [text.encode() for text in (visit.out, visit.err, refused.out, refused.err)]
        said.append((device.folder / "sshd.log").read_bytes())
        lines = [line for key in (locked, device.identity) for line in key.read_bytes().splitlines()[1:-1]]
        for secret in (self.PASSPHRASE.encode(), self.TOKEN.encode(), *lines):
            assert not any(secret in text for text in said), secret

    def test_key_that_is_refused_is_not_shown(self, device, bundle, tmp_path, run_cli):
        wrong = make_key(tmp_path / "wrong", passphrase=self.PASSPHRASE)
        result = run_cli("bench", bundle, "--host", device.target, "--identity", wrong, "--json")
        assert result.exit_code == 1
        for line in (self.PASSPHRASE, *wrong.read_text().splitlines()[1:-1]):
            assert line not in result.output
