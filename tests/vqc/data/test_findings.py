"""What is printed of findings is short and safe."""

from __future__ import annotations

from vqc.data.findings import MOST, Report, printable, warning_lines


def test_warnings_before_training_are_one_line_for_each_kind() -> None:
    report = Report()
    for number in range(12):
        report.warning("box clipped", f"image {number}", "1 px outside")
    report.warning("similar pictures", "test", "2 of 9 images look alike")
    report.error("empty box", "image 1", "expected a width above 0")
    assert warning_lines(report.findings) == [
        "Warning: image 0: 1 px outside (11 more: vqc check)",
        "Warning: test: 2 of 9 images look alike",
    ]


def test_a_report_keeps_a_limited_number() -> None:
    report = Report()
    for number in range(MOST + 5):
        assert report.full == (number > MOST)
        report.error("empty box", str(number), "")
    assert len(report.findings) == MOST + 1
    assert report.findings[-1].kind == "too many errors"


def test_a_name_is_printable_and_short() -> None:
    assert printable("a\x1b[2J\ud800") == "a\\x1b[2J\\ud800"
    assert len(printable("a" * 1000)) < 85
