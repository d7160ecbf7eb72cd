"""A finished classifier over a Ray Dataset: the same digits as `predict`, and bad images that stop nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from classifier_folder import images, stored
from PIL import Image

from raymedlt.classifier import load
from raymedlt.classifier.distributed import _Predict, predict_on_ray
from raymedlt.errors import InputError

IMAGES = images(25)
FILES = [b"" for _ in IMAGES]
for number, image in enumerate(IMAGES):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    FILES[number] = buffer.getvalue()
FEATURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return stored(str(tmp_path_factory.mktemp("run")))


def column_of(kind: str, root: Path) -> pa.Array:
    if kind == "bytes":
        return pa.array(FILES, pa.binary())
    paths = [root / f"{number}.png" for number in range(25)]
    for path, data in zip(paths, FILES, strict=True):
        path.write_bytes(data)
    if kind == "path":
        return pa.array([f"file://{path}" if n % 2 else str(path) for n, path in enumerate(paths)])
    cells = [
        {"bytes": data, "path": None} if n % 2 else {"bytes": None, "path": str(path)}
        for n, (data, path) in enumerate(zip(FILES, paths, strict=True))
    ]
    return pa.array(cells, FEATURE)


@pytest.mark.parametrize("kind", ["bytes", "feature", "path"])
def test_an_actor_gives_the_probabilities_of_predict(folder, tmp_path, kind):
    table = pa.table({"id": range(25), "picture": column_of(kind, tmp_path)})
    found = _Predict(folder, "picture", "cpu")(table)
    assert found.column_names == ["id", "picture", "probabilities", "unreadable"]
    assert found.select(["id", "picture"]).equals(table)
    assert set(found["unreadable"].to_pylist()) == {""}
    expected = load(folder).predict(IMAGES).probabilities
    np.testing.assert_array_equal(np.array(found["probabilities"].to_pylist(), np.float32), expected)
    nothing = _Predict(folder, "picture", "cpu")(table.slice(0, 0))
    assert nothing.schema.equals(found.schema)


def test_bad_images_stop_nothing_and_as_many_actors_as_cpus_do_not_wait_for_ever(folder, tmp_path, local_ray):
    import ray

    cells = [{"bytes": data, "path": "x.png"} for data in FILES]
    cells[3], cells[4], cells[5] = {"bytes": FILES[3][:80], "path": ""}, None, {"bytes": None, "path": None}
    cells[6] = {"bytes": None, "path": str(tmp_path / "none.png")}
    table = pa.table({"id": [f"i{n}" for n in range(25)], "image": pa.array(cells, FEATURE)})
    for number, part in enumerate((table.slice(0, 9), table.slice(9))):
        pq.write_table(part, tmp_path / f"{number}.parquet")
    dataset = ray.data.read_parquet(str(tmp_path))
    found = predict_on_ray(dataset, folder, batch=7, actors=int(local_ray.cpus))
    whole = pa.concat_tables(ray.get(found.to_arrow_refs()))
    assert whole.schema.field("probabilities").type == pa.list_(pa.float32())
    assert whole.num_rows == 25
    rows = {row["id"]: row for row in whole.to_pylist()}
    assert {name: row["unreadable"] for name, row in rows.items() if row["unreadable"]} == {
        "i3": "corrupt png", "i4": "no image", "i5": "no image", "i6": "file not found",
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["probabilities"] is None} == {"i3", "i4", "i5", "i6"}
    good = [0, 1, 2, *range(7, 25)]
    expected = load(folder).predict(IMAGES[good]).probabilities  # with this process's threads: last digits may differ
    np.testing.assert_allclose([rows[f"i{n}"]["probabilities"] for n in good], expected, atol=1e-6)


def test_what_can_not_work_is_said_before_anything_runs(folder, tmp_path, local_ray):
    import ray

    dataset = ray.data.from_arrow(pa.table({"image": pa.array(FILES[:1]), "unreadable": ["x"]}))
    with pytest.raises(InputError, match="neither 'probabilities' nor 'unreadable'"):
        predict_on_ray(dataset, folder)
    with pytest.raises(InputError, match="the column 'picture' with the images"):
        predict_on_ray(dataset.drop_columns(["unreadable"]).materialize(), folder, column="picture")
    with pytest.raises(InputError, match=r"no classifier\.json"):
        predict_on_ray(dataset, str(tmp_path))
