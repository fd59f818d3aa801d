"""Weights of a folder: what is read, what is damaged, and what a folder of results does to one that is there."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmdpo.files import UnusableFileError
from mmdpo.folders import FolderInUseError, written_aside
from mmdpo.models.weights import CheckpointError, check_names, read_weights

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3).bfloat16(),
    "b": torch.randn(5, dtype=torch.float64),
    "half": torch.randn(3, 3).half(),
}


def save_in_shards(folder, first, second):
    save_file(first, folder / "one.safetensors")
    save_file(second, folder / "two.safetensors")
    weight_map = dict.fromkeys(first, "one.safetensors") | dict.fromkeys(second, "two.safetensors")
    write_index(folder, weight_map)
    return weight_map


def write_index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_what_was_saved_is_read(tmp_path):
    save_in_shards(tmp_path, {name: TENSORS[name] for name in ("a", "b")}, {"half": TENSORS["half"]})
    found = read_weights(tmp_path)
    assert found.keys() == {"a", "b", "half"}
    assert all(torch.equal(found[name], TENSORS[name]) and found[name].dtype == TENSORS[name].dtype for name in found)


class TestDamage:
    def test_a_shard_that_is_cut_short(self, tmp_path):
        save_in_shards(tmp_path, {"a": torch.ones(50)}, {"b": torch.ones(50)})
        whole = (tmp_path / "two.safetensors").read_bytes()
        for length in (len(whole) - 1, 20, 0):
            (tmp_path / "two.safetensors").write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=r"two\.safetensors is cut short or damaged"):
                read_weights(tmp_path)

    def test_an_index_that_names_a_missing_file(self, tmp_path):
        weight_map = save_in_shards(tmp_path, {"a": torch.ones(2)}, {"b": torch.ones(2)})
        write_index(tmp_path, weight_map | {"c": "three.safetensors"})
        with pytest.raises(CheckpointError, match=r"names three\.safetensors, which is not there"):
            read_weights(tmp_path)

    def test_an_index_that_names_a_missing_key_or_leaves_one_out(self, tmp_path):
        weight_map = save_in_shards(tmp_path, {"a": torch.ones(2)}, {"b": torch.ones(2), "d": torch.ones(2)})
        write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
        with pytest.raises(CheckpointError, match=r"two\.safetensors does not hold.*1 missing: c; 1 unknown: d"):
            read_weights(tmp_path)
        write_index(tmp_path, weight_map)
        assert set(read_weights(tmp_path)) == {"a", "b", "d"}

    def test_an_index_that_is_no_json(self, tmp_path):
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a"')
        with pytest.raises(CheckpointError, match=r"index\.json is not valid JSON"):
            read_weights(tmp_path)

    def test_a_folder_without_weights(self, tmp_path):
        with pytest.raises(CheckpointError, match="holds no weights"):
            read_weights(tmp_path)

    def test_quantised_elements(self, tmp_path):
        save_file({"a": torch.zeros(4, dtype=torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"a is of type torch\.float8_e4m3fn, which is not supported"):
            read_weights(tmp_path)


class TestPickled:
    def test_they_are_refused_unless_allowed(self, tmp_path):
        torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*--allow_pickle"):
            read_weights(tmp_path)
        assert torch.equal(read_weights(tmp_path, allow_pickle=True)["a"], torch.ones(3))

    def test_code_in_them_is_not_run_when_they_are_allowed(self, tmp_path):
        class Evil:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "was run",))

        torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin", pickle_module=pickle)
        with pytest.raises(CheckpointError, match="cannot be opened as plain tensors"):
            read_weights(tmp_path, allow_pickle=True)
        assert not (tmp_path / "was run").exists()


def test_names_and_shapes_that_do_not_fit_are_listed():
    expected = {"a": (1,), "b": (2, 2), **{f"m{n}": () for n in range(20)}}
    with pytest.raises(CheckpointError) as raised:
        check_names(expected, {"b": (2, 3), "x": (1,), "y": (1,)}, "here")
    assert str(raised.value) == (
        "here: 21 missing: a, m0, m1, m10, m11, m12, m13, m14 …; 2 unknown: x, y; "
        "1 of another shape: b is [2, 3] instead of [2, 2]"
    )
    check_names(expected, expected, "here")


class TestWrittenAside:
    def test_an_error_leaves_nothing(self, tmp_path):
        def fail(path):
            with written_aside(path) as folder:
                (folder / "half").write_text("x")
                assert not path.exists()
                raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            fail(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_what_is_there_stays(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("x")
        with pytest.raises(UnusableFileError, match="holds something already"), written_aside(tmp_path / "out"):
            pass
        assert (tmp_path / "out" / "mine").read_text() == "x"
        (tmp_path / "empty").mkdir()
        with written_aside(tmp_path / "empty") as folder:
            (folder / "new").write_text("y")
        assert (tmp_path / "empty" / "new").read_text() == "y"
        assert os.access(tmp_path / "empty", os.R_OK)

    def test_what_a_killed_process_left_is_removed(self, tmp_path):
        left = tmp_path / ".out.partial"
        (left / "deep").mkdir(parents=True)
        (left / "model.safetensors").write_text("half")
        with written_aside(tmp_path / "out") as folder:
            (folder / "new").write_text("y")
        assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/new"]

    def test_a_second_process_is_refused(self, tmp_path):
        command = (
            "import sys; from pathlib import Path; from mmdpo.folders import written_aside\n"
            "with written_aside(Path(sys.argv[1])): print('writing', flush=True); sys.stdin.read()"
        )
        arguments = [sys.executable, "-c", command, str(tmp_path / "out")]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
            assert first.stdout.readline() == b"writing\n"
            with (
                pytest.raises(FolderInUseError, match=f"in use by process {first.pid}"),
                written_aside(tmp_path / "out"),
            ):
                pass
            first.kill()
        assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
        with written_aside(tmp_path / "out"):
            pass
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
