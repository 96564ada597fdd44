"""The command that lists recordings."""

from pathlib import Path

import numpy as np
import pytest
from wav_files import LENGTH, noise, put, put_slider

from mimii_jax.data import list as listing


def printed(capsys, *arguments: str | Path) -> list[str]:
    listing.main(list(map(str, arguments)))
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_clips_lengths_and_rates_are_counted(tmp_path, capsys):
    put_slider(tmp_path)
    put(tmp_path / "slider/test", "id_03_00000000.wav", noise(0, LENGTH + 80))
    put(tmp_path / "slider/test", "id_03_00000001.wav", samplerate=8000)
    put(tmp_path / "slider/test", "new.wav")
    put(tmp_path / "slider/later", "normal_id_00_00000000.wav")
    (tmp_path / "slider/train/x.mp3").touch()
    for kind, count in (("normal", 6), ("abnormal", 2)):
        for number in range(count):
            wide = np.stack([noise(number)] * 8, axis=1)
            put(tmp_path / "0_dB_fan/id_04" / kind, f"{number:08d}.wav", wide)
    lines = printed(capsys, tmp_path)
    for line in (
        "0_dB_fan, MIMII",
        "04 to be drawn normal 6 0.05 16000 8",
        "04 to be drawn anomalous 2 0.05 16000 8",
        "8 files, all usable",
        "slider, DCASE 2020",
        "00 train normal 2 0.05 16000 1",
        "00 test anomalous 1 0.05 16000 1",
        "03 test unknown 2 0.055 to 0.1 8000 to 16000 1",
        "9 files, 1 of them bad",
        "passed over, no .wav, .flac, .aiff or .ogg: 1 (slider/train/x.mp3)",
        "passed over, recordings, but neither listed nor in a folder of the layout: 1 "
        "(slider/later/normal_id_00_00000000.wav)",
        "test/anomaly_id_00_00000000.wav: id 00, test, anomalous",
    ):
        assert line in lines
    assert any(line.startswith("test/new.wav: wrong name") for line in lines)


def test_every_file_of_a_plain_folder_is_named(tmp_path, capsys):
    for number in range(30):
        put(tmp_path / "pump" / "7", f"{number:02d}.wav", noise(number) // 2)
    (tmp_path / "pump" / "7" / "30.wav").write_bytes(b"")
    (tmp_path / "pump" / "\x1b[31mred.txt").touch()
    lines = printed(capsys, tmp_path / "pump")
    assert "pump, plain folder, all normal" in lines
    assert "7/19.wav: id 7, train, normal" in lines
    assert "and 10 more: --files lists them all" in lines
    assert "7/30.wav: empty: 0 bytes" in lines
    assert "\x1b" not in "".join(lines)
    lines = printed(capsys, tmp_path / "pump", "--files")
    assert "7/29.wav: id 7, train, normal" in lines


def test_no_recordings_are_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for root, message in (("empty", "no machine type"), ("nowhere", "No such file")):
        with pytest.raises(SystemExit, match="1"):
            listing.main([str(tmp_path / root)])
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
