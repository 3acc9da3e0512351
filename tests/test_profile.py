import pytest

from edgecomp.errors import ProfileError
from edgecomp.profile import DeviceProfile, load_profile, profile_names, read_profile

RPI4 = load_profile("rpi4").text


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", profile_names())
class TestEveryProfile:
    """The contract of a profile: a new file in device_profiles/ is held to it without a new test."""

    def test_loads_and_is_named_like_its_file(self, name):
        assert load_profile(name).name == name

    def test_is_short_and_commented(self, name):
        text = load_profile(name).text
        assert text.startswith("#")
        assert len(text.splitlines()) <= 60

    def test_every_source_names_a_key_that_exists(self, name):
        table = load_profile(name).model_dump()
        for key in table["sources"]:
            value = table
            for part in key.split("."):
                assert part in value, f"{key} is no key of the profile"
                value = value[part]

    def test_memory_is_left_for_a_model(self, name):
        memory = load_profile(name).memory
        assert memory.usable_ram_bytes > 0
        assert memory.usable_flash_bytes is None or memory.usable_flash_bytes > 0

    def test_microcontrollers_take_integers_by_default(self, name):
        profile = load_profile(name)
        assert profile.precisions.io == ("int8" if profile.kind == "mcu" else "float32")


def test_the_figures_of_the_board_of_mlperf_tiny():
    board = load_profile("stm32l4r5")
    assert board.cpu.clock_hz == 120_000_000
    assert board.memory.ram_bytes == 640 * 1024
    assert board.memory.flash_bytes == 2 * 2**20


def test_unknown_device_suggests_the_closest():
    with pytest.raises(ProfileError, match=r"Unknown device 'rpi5'\. Did you mean 'rpi4'\?"):
        load_profile("rpi5")


def test_a_path_is_a_users_own_profile(write):
    path = write(RPI4.replace('name = "rpi4"', 'name = "mine"'))
    assert load_profile(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cores = 4", "coers = 4", r"mine\.toml: cpu\.cores is missing; unknown key cpu\.coers"),
        ("cores = 4", "cores = 0", r"cpu\.cores: .*greater than 0, got 0"),
        ('ram_bytes = "1GiB"', 'ram_bytes = "1 Gib of RAM"', r"memory\.ram_bytes: A size must look like"),
        ('ram_bytes = "1GiB"', 'ram_bytes = "256MiB"', "reserved_ram_bytes leaves no RAM"),
        ('"0xd08"', '"d08"', r'cpu\.part_ids: part ids are written like "0xd08", got'),
        ('"INT8", "SELECTIVE"', '"INT8", "INT7"', r"precisions\.order\.1: .*got 'INT7'"),
        ('fallback = ["INT16X8"', 'fallback = ["INT8"', "a precision is listed twice"),
        ('kind = "linux"', 'kind = "mcu"', r"memory\.flash_bytes is required"),
        ("[cpu]", "[cpu", "not valid TOML"),
    ],
    ids=lambda value: value if len(value) < 30 else None,
)
def test_a_typo_names_file_key_and_value(write, old, new, message):
    assert old in RPI4
    with pytest.raises(ProfileError, match=message):
        read_profile(write(RPI4.replace(old, new, 1)))


def test_missing_file(tmp_path):
    with pytest.raises(ProfileError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_profile(str(tmp_path / "nowhere.toml"))


def test_a_profile_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_profile("rpi4").name = "other"
    assert isinstance(load_profile("rpi4"), DeviceProfile)
