"""JUnit XML: its structure, its totals, and that nothing a device is called makes it ill-formed."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecomp.bench.baseline import Baseline, BaselineMeasurement
from edgecomp.bench.junit import junit_xml, write_junit
from edgecomp.bench.limits import check_latency, check_slowdowns
from edgecomp.bench.measurement import BenchReport, FailedMeasurement
from edgecomp.errors import EdgecompError
from tests.synthetic_bench import measurement


def parsed(report):
    document = junit_xml(report)
    assert document.startswith(b"<?xml version='1.0' encoding='utf-8'?>")
    return ET.fromstring(document)


def cases(root):
    return {case.attrib["name"]: case for case in root.iter("testcase")}


@pytest.fixture
def full(tmp_path):
    """Two boards: one valid, too slow for its limit; one noisy; besides a third that was not reached."""
    good, noisy = measurement(), measurement(on="pi@board-2", verdict="noisy", reasons=("interval -+ 4 %", "load 3.1"))
    past = BaselineMeasurement.model_validate(measurement().to_json())
    baseline = Baseline(tmp_path / "baseline.json", (past,))
    checks = [check_latency(one, 5.0) for one in (good, noisy)] + list(check_slowdowns([good, noisy], baseline))
    failed = FailedMeasurement("rpi4", "bundles/digits-rpi4.zip", "pi@board-3", "It refused.", "Is sshd running?")
    return BenchReport((good, noisy), (failed,), tuple(checks))


class TestStructure:
    def test_a_suite_for_each_device(self, full):
        root = parsed(full)
        assert root.tag == "testsuites"
        assert [suite.attrib["name"] for suite in root] == [
            "rpi4 on pi@board-1", "rpi4 on pi@board-2", "rpi4 on pi@board-3",
        ]  # fmt: skip
        for suite in root:
            assert suite.tag == "testsuite"
            assert suite[0].tag == "properties"
            assert {child.tag for child in suite[1:]} == {"testcase"}

    def test_totals(self, full):
        root = parsed(full)
        totals = [{key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} for suite in root]
        assert totals == [
            {"tests": "3", "failures": "1", "errors": "0", "skipped": "0"},
            {"tests": "3", "failures": "0", "errors": "1", "skipped": "2"},
            {"tests": "1", "failures": "0", "errors": "1", "skipped": "0"},
        ]
        assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("7", "1", "2")

    def test_cases(self, full):
        first = cases(parsed(full)[0])
        assert list(first) == [
            "digits-rpi4.zip, INT8, 1 thread: measurement",
            "digits-rpi4.zip, INT8, 1 thread: max-latency",
            "digits-rpi4.zip, INT8, 1 thread: fail-if-slower",
        ]
        measured, latency, slowdown = first.values()
        assert measured.attrib["classname"] == "edgecomp.rpi4"
        assert float(measured.attrib["time"]) == 0.09  # Nine inferences of 10 ms.
        assert measured.find("error") is None
        assert latency.find("failure").attrib == {
            "type": "max-latency", "message": "p50 10 ms [9.9, 10.1] (measured), 5 ms above the 5 ms allowed.",
        }  # fmt: skip
        assert slowdown.find("failure") is None
        assert "It is the very file of the baseline" in slowdown.find("system-out").text

    def test_what_cannot_be_trusted_is_an_error_and_its_checks_are_skipped(self, full):
        measured, latency, _ = cases(parsed(full)[1]).values()
        assert measured.find("error").attrib == {"type": "noisy", "message": "interval -+ 4 %; load 3.1"}
        assert latency.find("skipped").attrib == {"message": "The measurement is noisy."}
        assert latency.find("failure") is None

    def test_what_was_not_measured_is_an_error(self, full):
        (case,) = cases(parsed(full)[2]).values()
        assert case.find("error").attrib == {"type": "failed", "message": "It refused. Is sshd running?"}

    def test_figures_are_properties(self, full):
        found = {item.attrib["name"]: item.attrib["value"] for item in parsed(full)[0][0]}
        name = "digits-rpi4.zip, INT8, 1 thread: "
        assert found[name + "p50_ms"] == "10.0"
        assert (found[name + "low_ms"], found[name + "high_ms"]) == ("9.9", "10.1")
        assert found[name + "verdict"] == "valid"
        assert found[name + "mode"] == "measured"
        assert found[name + "runtime"] == "ai-edge-litert 2.3.0"
        assert found[name + "num_processes"] == "3"

    def test_what_is_not_known_is_left_out(self):
        root = parsed(BenchReport((measurement(facts={"cpu_model": None, "runtime_version": None}),)))
        found = {item.attrib["name"].split(": ")[1]: item.attrib["value"] for item in root[0][0]}
        assert "cpu_model" not in found
        assert found["runtime"] == "ai-edge-litert"

    def test_nothing_at_all(self):
        root = parsed(BenchReport(()))
        assert (len(root), root.get("tests"), root.get("time")) == (0, "0", "0.000")


class TestHostileNames:
    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ('"><x y="', '"><x y="'),
            ("]]></system-out><testcase/>", "]]></system-out><testcase/>"),
            ("&amp;&unknown;", "&amp;&unknown;"),
            ("a\x00b\x1b[31mred\x07", "a bred"),
            ("two\nlines\t", "two lines"),
            ("\ud800\ufffe\uffff", ""),
            ("\u202egnp.exe", "gnp.exe"),
            ("größe 板 🙂", "größe 板 🙂"),
        ],
    )
    def test_names_stay_text(self, name, shown):
        hostile = measurement(on=name, chosen=name, facts={"cpu_model": name, "kernel": name})
        root = parsed(BenchReport((hostile,), checks=(check_latency(hostile, 5.0),)))
        assert root[0].attrib["name"] == f"rpi4 on {shown}".strip()
        assert len(list(root.iter("testcase"))) == 2
        kernel = next(item for item in root[0][0] if item.attrib["name"].endswith("kernel"))
        assert kernel.attrib["value"] == shown

    @given(st.text(st.characters(), max_size=60))
    def test_any_text_is_well_formed(self, text):
        report = BenchReport(
            (measurement(on=text, device=text, verdict="noisy", reasons=(text,)),),
            (FailedMeasurement(text, text, text, text, None),),
        )
        assert all(value.isprintable() for item in parsed(report).iter() for value in item.attrib.values())

    def test_endless_text_is_cut(self):
        root = parsed(BenchReport((measurement(verdict="noisy", reasons=("x" * 1_000_000,)),)))
        assert len(next(root.iter("error")).attrib["message"]) == 2000


class TestFile:
    def test_written_whole(self, full, tmp_path):
        path = tmp_path / "bench.xml"
        path.write_text("of yesterday")
        write_junit(path, full)
        assert path.read_bytes() == junit_xml(full)
        assert list(tmp_path.iterdir()) == [path]

    def test_no_such_folder(self, full, tmp_path):
        with pytest.raises(EdgecompError, match=r"bench.xml cannot be written: No such file or directory\."):
            write_junit(tmp_path / "absent" / "bench.xml", full)
