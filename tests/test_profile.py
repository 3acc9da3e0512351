"""Profiles: the contract of every shipped file, what is refused and how it is said, inheritance, sources, TOML."""

import copy
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecomp.errors import ProfileError
from edgecomp.profile import DeviceProfile, Precision, explain, load_profile, profile_names, read_profile
from edgecomp.profile_files import (
    SOURCED_TABLES,
    Layer,
    arena_region,
    dump_toml,
    is_unverified,
    leaves,
    lookup,
    merge,
    resolve,
    source_of,
    unsourced,
)
from edgecomp.units import Drop
from tests.conftest import ROOT

FOLDER = ROOT / "device_profiles"
RPI4 = (FOLDER / "rpi4.toml").read_text()
KIB = 1024

FAMILIES = {
    "cortex-m0plus", "cortex-m4-reference", "cortex-m4-cmsis-nn", "cortex-m33-cmsis-nn", "cortex-m7-cmsis-nn",
    "cortex-m-helium", "esp32-esp-nn", "arm-a-xnnpack", "arm-a-dotprod-xnnpack", "armv6-xnnpack", "x86-64-xnnpack",
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def child(*lines, extends="rpi4", name="mine"):
    return "\n".join(["schema_version = 1", f'name = "{name}"', f'extends = "{extends}"', *lines]) + "\n"


@pytest.mark.parametrize("name", profile_names())
class TestEveryProfile:
    """The contract of a profile: a new file in device_profiles/ is held to it without a new test."""

    def test_loads_and_is_named_like_its_file(self, name):
        assert load_profile(name).name == name

    def test_is_short_and_commented(self, name):
        text = (FOLDER / f"{name}.toml").read_text()
        assert text.startswith("#")
        assert len(text.splitlines()) <= 60

    def test_stands_in_the_docs(self, name):
        assert f"`{name}`" in (ROOT / "docs" / "profiles.md").read_text()

    def test_every_figure_has_a_source(self, name):
        profile = load_profile(name)
        figures = [
            key
            for key, value in leaves(profile.table)
            if key.split(".")[0] in SOURCED_TABLES and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        assert {"cpu.cores", "cpu.clock_hz"} <= set(figures)
        for key in figures:
            source = profile.source_of(key)
            assert source
            assert (key in profile.unverified) == is_unverified(source)

    def test_memory_is_left_for_a_model(self, name):
        memory = load_profile(name).memory
        assert memory.usable_ram_bytes >= 128 * KIB
        assert memory.usable_flash_bytes is None or memory.usable_flash_bytes >= 256 * KIB

    def test_its_text_stands_alone(self, name):
        """Bundles hold the text, and are opened where the profile that it extends may be another."""
        profile = load_profile(name)
        assert "extends =" not in profile.text
        assert DeviceProfile.model_validate(tomllib.loads(profile.text)).model_dump() == profile.model_dump()

    def test_its_runtime_takes_its_precisions(self, name):
        profile = load_profile(name)
        supported = set(profile.precisions.supported)
        assert profile.precisions.order[0] is Precision.INT8
        integers = profile.runs_tflm or profile.runtime.name == "edgetpu"
        assert profile.precisions.io == ("int8" if integers else "float32")
        if integers:  # TFLM refuses both: "Hybrid models are not supported", DEQUANTIZE of float16.
            assert not supported & {Precision.DYNAMIC_RANGE, Precision.FLOAT16}
        if profile.npu is not None:
            assert Precision.FLOAT32 not in supported
        if profile.runtime.name == "edgetpu":
            assert supported == {Precision.INT8}
        assert (Precision.INT4_WEIGHTS in supported) <= bool(profile.runtime.int4_weight_operators)

    def test_microcontrollers_run_tflm_and_have_flash(self, name):
        profile = load_profile(name)
        assert profile.runs_tflm == (profile.kind == "mcu")
        assert (profile.memory.usable_flash_bytes is None) == (profile.kind != "mcu")

    def test_its_costs_are_those_of_its_kernels(self, name):
        profile = load_profile(name)
        if profile.cost is not None:
            assert profile.cost.family in FAMILIES
            assert profile.npu is None
            kernels = profile.runtime.kernels
            assert profile.cost.family.endswith(
                {"helium-cmsis-nn": "helium", "cmsis-nn": ("cmsis-nn", "m0plus")}.get(kernels, kernels)
            )


def test_descriptions_differ():
    descriptions = {load_profile(name).description for name in profile_names()}
    assert len(descriptions) == len(profile_names()) >= 24


FIGURES = [
    # MLPerf Tiny v1.2 systems/*.json unless said otherwise: the boards' own RAM and flash, not what is left.
    ("stm32l4r5", "cpu.clock_hz", 120_000_000),
    ("stm32l4r5", "memory.regions.sram.bytes", 640 * KIB),
    ("stm32l4r5", "memory.regions.flash.bytes", 2048 * KIB),
    ("stm32l4r5-cmsis-nn", "memory.regions.sram.bytes", 640 * KIB),
    ("stm32f746", "cpu.clock_hz", 216_000_000),
    ("stm32f746", "memory.regions.sram.bytes", 320 * KIB),
    ("stm32f746", "memory.regions.flash.bytes", 1024 * KIB),
    ("stm32h743", "memory.regions.axi_sram.bytes", 512 * KIB),  # TinyEngine's largest block
    ("stm32h743", "memory.regions.flash.bytes", 2048 * KIB),
    ("stm32h7a3", "cpu.clock_hz", 280_000_000),
    ("stm32h7a3", "memory.regions.flash.bytes", 2048 * KIB),
    ("stm32u575", "cpu.clock_hz", 160_000_000),
    ("stm32u575", "memory.regions.sram.bytes", 768 * KIB),
    ("stm32g0b1", "cpu.clock_hz", 64_000_000),
    ("stm32g0b1", "memory.regions.sram.bytes", 144 * KIB),
    ("stm32g0b1", "memory.regions.flash.bytes", 512 * KIB),
    ("nrf5340", "cpu.clock_hz", 128_000_000),
    ("nrf5340", "memory.regions.sram.bytes", 512 * KIB),
    ("nrf52840", "cpu.clock_hz", 64_000_000),
    ("nrf52840", "memory.regions.sram.bytes", 256 * KIB),
    ("rp2040", "cpu.clock_hz", 133_000_000),
    ("rp2040", "memory.regions.sram.bytes", 264 * KIB),
    ("rp2350", "cpu.clock_hz", 150_000_000),
    ("rp2350", "memory.regions.sram.bytes", 520 * KIB),
    ("esp32s3", "cpu.clock_hz", 240_000_000),
    ("esp32s3", "memory.regions.sram.bytes", 512 * KIB),
    ("esp32c3", "cpu.clock_hz", 160_000_000),
    ("ek-ra8d1", "cpu.clock_hz", 480_000_000),
    ("ek-ra8d1", "memory.regions.flash.bytes", 2048 * KIB),
    ("rpi-zero-w", "cpu.architecture", "armv6l"),
    ("rpi-zero-2-w", "cpu.clock_hz", 1_000_000_000),
    ("rpi3b-plus", "cpu.clock_hz", 1_400_000_000),
    ("rpi4", "cpu.clock_hz", 1_500_000_000),
    ("rpi5", "cpu.clock_hz", 2_400_000_000),
    ("rpi5", "cpu.features", ["neon", "dotprod", "fp16"]),  # and no i8mm
    ("coral-usb-rpi4", "npu.sram_bytes", 8192 * KIB),
    ("ethos-u55-256", "npu.system_config", "Ethos_U55_High_End_Embedded"),
    ("ethos-u65-512", "npu.sram_bytes", 384 * KIB),  # Vela's Dedicated_Sram cache
]


@pytest.mark.parametrize(("name", "key", "value"), FIGURES, ids=lambda item: item if isinstance(item, str) else "")
def test_figures_of_the_boards(name, key, value):
    assert lookup(load_profile(name).table, key) == value


def test_power_is_energy_over_time():
    """MLPerf Tiny v0.5, reference on the L4R5: energy in uJ over latency in ms is power in mW."""
    watts = [uj / ms for uj, ms in ((29_207, 704), (7_374, 182), (24_313, 601), (416, 10.05))]
    assert round(sum(watts) / 4) == load_profile("stm32l4r5").power.active_mw == 41


class TestMemory:
    def test_the_arena_takes_the_largest_internal_region(self):
        memory = load_profile("stm32h743").memory
        assert memory.arena_region == "axi_sram"
        assert memory.usable_ram_bytes == 512 * KIB  # of 992: an arena lies in one piece
        assert memory.usable_flash_bytes == (2048 - 192) * KIB

    def test_or_the_one_that_is_named(self):
        assert load_profile("esp32s3").memory.arena_region == "sram"
        memory = load_profile("esp32s3-psram").memory
        assert (memory.arena_region, memory.usable_ram_bytes) == ("psram", 8 * 2**20)

    def test_external_ram_only_where_there_is_no_other(self):
        assert arena_region({"psram": (8_000_000, True), "sram": (100, False)}) == "sram"
        assert arena_region({"small": (1, True), "psram": (8_000_000, True)}) == "psram"

    def test_reserved_bytes_decide_which_is_largest(self):
        assert arena_region({"a": (90, False), "b": (100, False)}) == "b"

    def test_flash_is_the_sum_of_its_regions(self, write):
        text = child(
            "[memory.regions.qspi]",
            'kind = "flash"',
            'bytes = "8MiB"',
            "external = true",
            "[sources]",
            '"memory.regions.qspi" = "ours"',
            extends="stm32l4r5",
        )
        assert read_profile(write(text)).memory.usable_flash_bytes == (2048 - 192 + 8192) * KIB

    def test_storage_without_a_limit_is_none(self):
        assert load_profile("rpi4").memory.usable_flash_bytes is None


def test_what_other_modules_read():
    assert (load_profile("rpi4").runtime.delegate, load_profile("rpi4").runs_tflm) == ("xnnpack", False)
    assert (load_profile("coral-dev-board").runtime.delegate, load_profile("stm32l4r5").runtime.delegate) == (
        None,
        None,
    )
    assert load_profile("ethos-u55-128").runs_tflm
    assert (load_profile("pixel4").cpu.big_cores, load_profile("rpi4").cpu.big_cores) == (4, 4)
    assert load_profile("rpi4").limits.max_accuracy_drop == Drop(0.01)
    assert load_profile("rpi4").text == RPI4


def test_unknown_device_suggests_the_closest():
    with pytest.raises(ProfileError, match=r"Unknown device 'rpi'\. Did you mean 'rpi4'\? .*devices list"):
        load_profile("rpi")
    with pytest.raises(ProfileError) as error:
        load_profile("zzzzzz")
    assert "Did you mean" not in str(error.value)


def test_a_path_is_a_users_own_profile(write):
    path = write(RPI4.replace('name = "rpi4"', 'name = "mine"'))
    assert load_profile(str(path)).name == "mine"


TYPOS = [
    # (text of rpi4.toml, what stands there instead, what the error says)
    ("cores = 4", "coers = 4", r"mine\.toml: cpu\.cores is missing; unknown key cpu\.coers"),
    ("cores = 4", "cores = 0", r"cpu\.cores: must be a whole number from 1 to 256, got 0"),
    ("cores = 4", "cores = 257", r"cpu\.cores: must be a whole number from 1 to 256, got 257"),
    ("cores = 4", 'cores = "4"', r"cpu\.cores: must be a whole number from 1 to 256, got '4'"),
    ("cores = 4", "cores = true", r"cpu\.cores: must be a whole number .*got True"),
    ("cores = 4", "cores = 4\nbig_cores = 5", r"cpu: big_cores must be from 1 to cores \(4\), got 5"),
    ("clock_hz = 1_500_000_000", "clock_hz = 1500", r"cpu\.clock_hz: must be whole hertz from 1000000 .*got 1500"),
    ("clock_hz = 1_500_000_000", "clock_hz = 1.5e9", r"cpu\.clock_hz: must be whole hertz .*got 1500000000\.0"),
    ("clock_hz = 1_500_000_000", "clock_hz = 10_000_000_001", r"10 GHz\), got 10000000001"),
    ('bytes = "1GiB"', 'bytes = "1 Gib of RAM"', r"memory\.regions\.ram\.bytes: A size must look like .*got '1 Gib"),
    ('bytes = "1GiB"', 'bytes = "2000GB"', r"memory\.regions\.ram\.bytes: must be bytes from 1 to 1 TB.*got '2000GB'"),
    ('bytes = "1GiB"', "bytes = -1", r"memory\.regions\.ram\.bytes: must be bytes from 1 .*got -1"),
    ('bytes = "1GiB"', 'bytes = "512MiB"', r"memory\.regions\.ram: reserved_bytes must be from 0 to below bytes"),
    ('kind = "ram"', 'kind = "rom"', r"memory\.regions\.ram\.kind: .*'ram' or 'flash', got 'rom'"),
    ('kind = "ram"', 'kind = "flash"', r'memory: regions needs one of kind "ram"'),
    ("[runtime]", '[memory]\narena = "sram"\n[runtime]', r"memory: arena must name .*\(ram\), got 'sram'"),
    ('"0xd08"', '"d08"', r'cpu\.part_ids: part ids are written like "0xd08", got'),
    ('"aarch64"', '"arm64"', r"cpu\.architecture: .*'aarch64'.*got 'arm64'"),
    ('"INT8", "SELECTIVE"', '"INT8", "INT7"', r"precisions\.order\.1: .*got 'INT7'"),
    ('fallback = ["INT16X8"', 'fallback = ["INT8"', "precisions: a precision is listed twice"),
    ('kind = "linux"', 'kind = "mcu"', 'memory.regions needs one of kind "flash" for a microcontroller'),
    ('kind = "linux"', 'kind = "windows"', r"kind: .*'android', 'ios' or 'mcu', got 'windows'"),
    ('name = "litert"', 'name = "tflm"', r"runtime: kernels of tflm must be reference, cmsis-nn.*got 'xnnpack'"),
    ('name = "litert"', 'name = "edgetpu"', "npu is missing: runtime edgetpu needs it"),
    ('kernels = "xnnpack"', 'kernels = "vendor"', 'runtime: vendor_name is for kernels = "vendor"'),
    ("dynamic_shapes = true", 'dynamic_shapes = "yes"', r"runtime\.dynamic_shapes: .*boolean, got 'yes'"),
    ("[cost]", "[power]\nactive_mw = 0\n[cost]", r"power\.active_mw: must be milliwatts from 0\.01 to 1000000, got 0"),
    ("[cost]", "[power]\nactive_mw = 5\n[cost]", r'power\.active_mw has no source: add "power\.active_mw" to '),
    ('"cpu" = ', '"cpu.core" = ', r"cpu\.cores has no source.*; cpu\.clock_hz has no source"),
    ('"cpu" = "MLPerf', '"cpu" = " " # "', r"cpu\.cores has no source"),
    ('"runtime" =', '"runtmie" =', r"sources has 'runtmie', which is no key of the profile"),
    ("[cost]", '[limits]\nmax_accuracy_drop = 1\n[cost]', r'limits\.max_accuracy_drop: write it like "1pp".*got 1'),
    ("[cost]", '[limits]\nmax_accuracy_drop = "1"\n[cost]', r"limits\.max_accuracy_drop: '1' needs a unit"),
    ("schema_version = 1", "schema_version = 2", r"schema_version: .*got 2"),
    ('name = "rpi4"', 'name = "Rpi 4"', r"name: .*pattern.*got 'Rpi 4'"),
    ("[cpu]", "[cpu", "not valid TOML"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), TYPOS, ids=[new.replace("\n", " ")[:40] for _, new, _ in TYPOS])
def test_a_typo_names_file_key_value_and_what_is_allowed(write, old, new, message):
    assert old in RPI4
    with pytest.raises(ProfileError, match=message) as error:
        read_profile(write(RPI4.replace(old, new, 1)))
    assert "mine.toml: " in str(error.value)


def test_every_problem_is_named_at_once(write):
    path = write(RPI4.replace("cores = 4", "cores = 0").replace('"linux"', '"pc"').replace('"1GiB"', '"0B"'))
    with pytest.raises(ProfileError, match=r"kind: .*; cpu\.cores: .*; memory\.regions\.ram\.bytes: .*got '0B'"):
        read_profile(path)


def test_missing_file(tmp_path):
    with pytest.raises(ProfileError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_profile(str(tmp_path / "nowhere.toml"))


def test_a_profile_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_profile("rpi4").name = "other"


class TestExtends:
    def test_tables_are_merged_and_the_child_wins(self, write):
        path = write(
            child("[cpu]", "clock_hz = 1_800_000_000", 'features = ["crc"]', "[sources]", '"cpu.clock_hz" = "ours"')
        )
        profile, parent = read_profile(path), load_profile("rpi4")
        assert (profile.name, profile.extends) == ("mine", ("rpi4",))
        assert (profile.cpu.clock_hz, profile.cpu.cores) == (1_800_000_000, 4)
        assert profile.cpu.features == ("crc",)  # a list is replaced as a whole
        assert profile.memory == parent.memory
        assert profile.source_of("cpu.clock_hz") == "ours"
        assert profile.source_of("cpu.cores") == parent.source_of("cpu.cores")

    def test_a_path_is_relative_to_the_file(self, write, tmp_path):
        (tmp_path / "sub").mkdir()
        write(child('description = "middle"', name="middle"), "base.toml")
        profile = read_profile(write(child(extends="../base.toml"), "sub/mine.toml"))
        assert profile.extends == ("middle", "rpi4")
        assert profile.description == "middle"

    def test_without_drops_a_key_and_its_sources(self, write):
        profile = read_profile(write(child('without = ["cost", "power"]', extends="stm32l4r5")))
        assert (profile.cost, profile.power) == (None, None)
        assert "power.active_mw" not in profile.sources
        assert profile.memory.usable_ram_bytes == 608 * KIB

    def test_a_source_covers_only_the_figures_of_its_own_file(self, write):
        """A child that says `"cpu" = ...` speaks of what it states, not of what it took over."""
        profile = read_profile(write(child("[cpu]", "clock_hz = 1_800_000_000", "[sources]", '"cpu" = "ours"')))
        assert profile.source_of("cpu.clock_hz") == "ours"
        assert profile.source_of("cpu.cores").startswith("MLPerf Tiny")
        again = DeviceProfile.model_validate(tomllib.loads(profile.text))
        assert again.source_of("cpu.cores").startswith("MLPerf Tiny")

    def test_a_child_may_vouch_for_what_it_took_over(self, write):
        key = "memory.regions.ram.reserved_bytes"
        profile = read_profile(write(child("[sources]", f'"{key}" = "measured on ours"')))
        assert "unverified" not in profile.source_of(key)
        assert profile.unverified == ()
        assert load_profile("rpi4").unverified == (key,)

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["[cpu]", "clock_hz = 1_800_000_000"], r"mine\.toml: cpu\.clock_hz has no source"),
            (["[cpu]", "clock_hz = 1", "[sources]", '"cpu" = "x"'], r"mine\.toml: cpu\.clock_hz: .*got 1\."),
            (["[cpu]", "cores = 2", "big_cores = 4", "[sources]", '"cpu" = "x"'], "big_cores must be from 1 to cores"),
            (["[cpu]", "coers = 2"], r"unknown key cpu\.coers"),
            (['without = ["npu"]'], r"without has 'npu', which what it extends does not state"),
            (['without = ["cpu.coers"]'], r"without has 'cpu\.coers'"),
            (['without = ["cpu.cores"]'], r"cpu\.cores is missing"),
            (['without = "cost"'], r"without must list dotted keys like \[\"cost\"\], got 'cost'"),
        ],
        ids=lambda item: " ".join(item) if isinstance(item, list) else "",
    )
    def test_mistakes_in_the_child(self, write, lines, message):
        with pytest.raises(ProfileError, match=message):
            read_profile(write(child(*lines)))

    def test_a_mistake_in_the_parent_names_the_parent(self, write):
        write(RPI4.replace("cores = 4", "cores = 0"), "base.toml")
        with pytest.raises(ProfileError, match=r"mine\.toml: cpu\.cores: .*got 0 \(in .*base\.toml\)"):
            read_profile(write(child(extends="base.toml")))
        write(RPI4.replace('name = "rpi4"', ""), "base.toml")
        with pytest.raises(ProfileError, match=r"name is missing \(in .*base\.toml\)"):
            read_profile(write(child(extends="base.toml")))

    def test_each_file_has_a_name_of_its_own(self, write):
        with pytest.raises(ProfileError, match=r"name must differ from what it extends, got 'rpi4'"):
            read_profile(write(child(name="rpi4")))
        with pytest.raises(ProfileError, match=r"schema_version is missing; name is missing\."):
            read_profile(write('extends = "rpi4"\n'))

    def test_circles_name_the_chain(self, write):
        write(child(extends="c.toml"), "b.toml")
        write(child(extends="./a.toml"), "c.toml")
        with pytest.raises(ProfileError, match=r"in a circle: .*a\.toml -> .*b\.toml -> .*c\.toml -> .*a\.toml"):
            read_profile(write(child(extends="b.toml"), "a.toml"))
        with pytest.raises(ProfileError, match="in a circle"):
            read_profile(write(child(extends="mine.toml")))

    def test_missing_parents_name_the_chain(self, write):
        write(child(extends="rpi44"), "b.toml")
        with pytest.raises(ProfileError, match=r"a\.toml -> .*b\.toml -> rpi44\. Did you mean 'rpi4'\?"):
            read_profile(write(child(extends="b.toml"), "a.toml"))
        with pytest.raises(
            ProfileError, match=r"extends '\./no\.toml', which does not exist: .*mine\.toml -> .*no\.toml"
        ):
            read_profile(write(child(extends="./no.toml")))
        with pytest.raises(ProfileError, match="extends must be the name of a profile or a path like"):
            read_profile(write(RPI4.replace("schema_version = 1", "schema_version = 1\nextends = 5")))

    def test_shipped_variants(self):
        base, variant = load_profile("stm32l4r5"), load_profile("stm32l4r5-cmsis-nn")
        assert (variant.runtime.kernels, variant.cost.family) == ("cmsis-nn", "cortex-m4-cmsis-nn")
        assert (variant.cpu, variant.memory) == (base.cpu, base.memory)
        assert load_profile("stm32l4r5-x-cube-ai").cost is None
        assert load_profile("ethos-u55-256").npu.memory_mode == "Shared_Sram"


class TestSources:
    SOURCES = {"cpu": "a", "cpu.clock_hz": "b", "memory.regions.ram": "c"}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("key", "source"),
        [
            ("cpu.cores", "a"),
            ("cpu.clock_hz", "b"),
            ("memory.regions.ram.bytes", "c"),
            ("memory.regions.ramp.bytes", None),
            ("memory", None),
        ],
    )
    def test_the_nearest_counts(self, key, source):
        assert source_of(self.SOURCES, key) == source

    def test_sizes_as_text_are_figures_too(self):
        table = {"memory": {"regions": {"ram": {"kind": "ram", "bytes": "1GiB", "external": True}}}, "sources": {}}
        assert unsourced(table) == [("memory.regions.ram.bytes", "1GiB")]

    def test_only_hardware_needs_sources(self):
        assert unsourced({"schema_version": 1, "limits": {"x": 3}, "cost": {"y": 1.5}}) == []

    @pytest.mark.parametrize("text", ["unverified", "Unverified: a guess", " unverified; see x"])
    def test_unverified_in_any_words(self, text):
        assert is_unverified(text)
        assert not is_unverified(f"datasheet, {text}")
        assert not is_unverified(None)


# ---- Properties: any valid profile, not only those that ship.

names = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,12}", fullmatch=True)
texts = st.text(min_size=1, max_size=30).filter(str.strip)
sizes = st.integers(2, 10**12 - 1)


@st.composite
def regions(draw, kind):
    size = draw(sizes)
    reserved = draw(st.integers(0, size - 1))
    return {"kind": kind, "bytes": size, "reserved_bytes": reserved, "external": draw(st.booleans())}


@st.composite
def profile_tables(draw):
    cores = draw(st.integers(1, 256))
    is_mcu = draw(st.booleans())
    ram = draw(st.dictionaries(names, regions("ram"), min_size=1, max_size=3))
    flash = draw(st.dictionaries(names, regions("flash"), min_size=1 if is_mcu else 0, max_size=2))
    both = {**flash, **ram} if not set(ram) & set(flash) else {**{f"f-{key}": v for key, v in flash.items()}, **ram}
    chosen = draw(st.permutations(list(Precision)))
    split = draw(st.integers(1, len(chosen)))
    table = {
        "schema_version": 1,
        "name": draw(names),
        "description": draw(texts),
        "kind": "mcu" if is_mcu else draw(st.sampled_from(["linux", "android", "ios"])),
        "cpu": {
            "architecture": draw(st.sampled_from(["aarch64", "armv6m", "x86_64"])),
            "core": draw(texts),
            "cores": cores,
            "big_cores": draw(st.integers(1, cores)),
            "clock_hz": draw(st.integers(10**6, 10**10)),
            "part_ids": draw(st.lists(st.integers(0, 0xFFF).map(hex), max_size=3)),
            "features": draw(st.lists(texts, max_size=3)),
        },
        "memory": {"regions": both, "arena": draw(st.sampled_from(sorted(ram)))},
        "runtime": {"name": "tflm", "kernels": "vendor", "vendor_name": draw(texts), "dynamic_shapes": True}
        if is_mcu
        else {"name": "litert", "kernels": "xnnpack", "int4_weight_operators": draw(st.lists(texts, max_size=2))},
        "npu": {"name": draw(texts), "sram_bytes": draw(sizes)},
        "power": {"active_mw": draw(st.floats(0.01, 1e6) | st.integers(1, 10**6))},
        "cost": {"family": draw(texts)},
        "precisions": {"order": chosen[:split], "fallback": chosen[split:], "io": "int8"},
        "limits": {"max_accuracy_drop": f"{draw(st.integers(0, 1000)) / 10}pp"},
        "sources": {key: draw(texts) for key in SOURCED_TABLES},
    }
    for key in draw(st.sets(st.sampled_from(["npu", "power", "cost", "limits"]))):
        del table[key]
        table["sources"].pop(key, None)
    return table


@given(profile_tables())
def test_any_profile_survives_being_written_and_read(tmp_path_factory, table):
    profile = DeviceProfile.model_validate(table)
    path = tmp_path_factory.mktemp("profiles") / "mine.toml"
    path.write_text(profile.text, encoding="utf-8", newline="")
    again = read_profile(path)
    assert again.model_dump() == profile.model_dump()
    assert again.table == profile.table
    assert dump_toml(again.table) == profile.text


values = st.recursive(
    st.text(max_size=10) | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
tables = st.recursive(
    st.dictionaries(st.text(max_size=6), values, max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=6), values | inner, max_size=4),
    max_leaves=8,
)


@given(tables)
def test_any_table_survives_as_toml(table):
    text = dump_toml(table)
    assert tomllib.loads(text) == table
    assert dump_toml(tomllib.loads(text)) == text


JUNK = st.sampled_from([None, 0, -1, 3.5, "", "x", True, [], [1], {}, {"a": 1}, 10**13, "1KiB"])
KEYS = ["schema_version", "name", "extends", "without", "sources", "sources.cpu", "memory.arena"]
KEYS += [key for key, _ in leaves(load_profile("ethos-u65-512").table)]
KEYS += ["cpu", "memory", "memory.regions", "memory.regions.sram", "runtime", "npu", "precisions", "cpu.new"]


@given(st.lists(st.tuples(st.sampled_from(KEYS), JUNK), min_size=1, max_size=4))
def test_junk_is_a_problem_and_never_a_crash(changes):
    table = tomllib.loads(load_profile("ethos-u65-512").text)
    for key, value in changes:
        outer, _, last = key.rpartition(".")
        holder = lookup(table, outer) if outer else table
        if not isinstance(holder, dict):
            continue
        if value is None:
            holder.pop(last, None)
        else:
            holder[last] = copy.deepcopy(value)
    try:
        profile, problems = explain(resolve(Layer(Path("mine.toml"), "", table)))
    except ProfileError as error:
        profile, problems = None, [str(error)]
    assert (profile is None) == bool(problems)


@given(profile_tables(), profile_tables(), st.sets(st.sampled_from(["cores", "clock_hz", "core"]), min_size=1))
def test_a_figure_keeps_the_source_of_the_file_that_states_it(parent, other, stated):
    parent["sources"] = {"cpu": "parent", "cpu.cores": "parent's cores", "memory": "parent"}
    own = {"cpu": {key: other["cpu"][key] for key in stated}, "sources": {"cpu": "child"}}
    merged = merge(parent, own)
    for key in parent["cpu"]:
        parents = "parent's cores" if key == "cores" else "parent"
        assert merged["cpu"][key] == (own if key in stated else parent)["cpu"][key]
        assert source_of(merged["sources"], f"cpu.{key}") == ("child" if key in stated else parents)
    assert source_of(merged["sources"], "memory.regions.x.bytes") == "parent"
    assert "cpu.clock_hz" in merged["sources"] or "clock_hz" in stated
