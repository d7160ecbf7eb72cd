"""Label tables: every format, every reason to reject a row, and the real tables; rows in = rows out + rejected."""

import gzip
from collections import Counter
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raymedlt.errors import ConfigError, InputError
from raymedlt.images.config import ImageLabelsConfig
from raymedlt.images.label_formats import CHEXPERT, NIH14
from raymedlt.images.labels import positives, read_labels
from raymedlt.schema import IMAGE_LABELS, REJECTED

REAL = Path(__file__).parents[3] / "shared" / "data" / "nih1993_64" / "labels.csv"


def packaged(name):
    return str(distribution("torchxrayvision").locate_file(f"torchxrayvision/data/{name}"))


def read(path, **options):
    table = read_labels(ImageLabelsConfig(path=str(path), **options))
    assert table.images.schema == IMAGE_LABELS
    assert table.rejected.schema == REJECTED
    assert len(set(table.images["image_id"].to_pylist())) == table.images.num_rows
    for column in ("labels", "uncertain", "unknown"):
        assert {each for row in table.images[column].to_pylist() for each in row} <= set(table.classes)
    return table


def written(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def by_image(table, column="labels"):
    return dict(zip(table.images["image_id"].to_pylist(), table.images[column].to_pylist(), strict=True))


def reasons(table):
    """Row number -> reason."""
    return {int(row["row_id"].rpartition(":")[2]): row["reason"] for row in table.rejected.to_pylist()}


# Real tables


def test_nih14_table():
    table = read(packaged("Data_Entry_2017_v2020.csv.gz"))
    assert (table.format, table.classes) == ("nih14", NIH14)
    assert (table.images.num_rows, table.rejected.num_rows) == (112_120, 0)
    counts = Counter(label for row in table.images["labels"].to_pylist() for label in row)
    assert (counts["Infiltration"], counts["Effusion"], counts["Hernia"]) == (19_894, 13_317, 227)
    assert sum(not row for row in table.images["labels"].to_pylist()) == 60_361  # "No Finding"
    assert len(set(table.images["patient_id"].to_pylist())) == 30_805


def test_padchest_table():
    table = read(packaged("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"))
    assert table.format == "padchest"
    assert (table.images.num_rows, table.rejected.num_rows) == (154_338, 6_523)
    counts = Counter(label for row in table.images["labels"].to_pylist() for label in row)
    assert not {"normal", "exclude", "unchanged", "suboptimal study", ""} & set(table.classes)
    assert list(table.classes) == sorted(table.classes)
    assert {"cardiomegaly", "COPD signs", "pseudonodule"} <= set(table.classes)
    assert set(counts) == set(table.classes)
    assert (len(table.classes), counts["COPD signs"], counts["scoliosis"]) == (189, 23_255, 8_323)


def test_chexpert_table():
    table = read(packaged("chexpert_train.csv.gz"))
    assert (table.format, table.classes) == ("chexpert", CHEXPERT)
    assert table.images.num_rows + table.rejected.num_rows == 223_414
    counts = Counter(label for row in table.images["labels"].to_pylist() for label in row)
    assert counts["Pleural Effusion"] == 86_187
    assert table.rejected["reason"].to_pylist() == ["no labels"] * 12  # not one value in the row
    assert set(table.images["view"].to_pylist()) == {"AP", "PA", "LL", "RL", "Lateral"}


@pytest.mark.skipif(not REAL.exists(), reason="the real label table is not there")
def test_local_table_says_the_same_in_one_cell_and_one_hot():
    one_cell = read(REAL, format="csv", columns={"image": "image", "labels": "finding_labels"})
    auto = read(REAL)
    one_hot = read(REAL, columns={"labels": ""})
    assert (auto.format, one_hot.format) == ("csv", "csv")
    assert auto.images.equals(one_cell.images)
    assert auto.images.num_rows == len(REAL.read_text().splitlines()) - 1
    assert set(one_hot.classes) == set(auto.classes) == set(NIH14)
    Y, M = positives(auto.images, NIH14)
    Y2, M2 = positives(one_hot.images, NIH14)
    np.testing.assert_array_equal(Y, Y2)
    assert M.all()
    assert M2.all()
    assert Y.sum() > 500


# Formats, in small


def test_nih14_rules(tmp_path):
    path = written(
        tmp_path,
        "Image Index,Finding Labels,Patient ID,View Position\n"
        "a.png,Hernia|Edema,007,PA\n"
        "b.png,No Finding,007,AP\n"
        "c.png,,7,PA\n"
        "d.png,No Finding|Mass,8,PA\n"
        "e.png,Edema|Hernja,8,PA\n"
        "f.png,pleural thickening,8,PA\n",
    )
    table = read(path)
    assert by_image(table) == {"a.png": ["Edema", "Hernia"], "b.png": [], "f.png": ["Pleural_Thickening"]}
    assert table.images["patient_id"].to_pylist() == ["007", "007", "8"]
    assert set(table.images["source"].to_pylist()) == {"nih14"}
    assert reasons(table) == {
        3: "no labels", 4: "contradictory: no finding, and findings", 5: "unknown label 'Hernja'",
    }  # fmt: skip


def test_padchest_rules(tmp_path):
    cells = [
        "['normal']", "['nodule', ' mass ', '', 'nodule']", "['exclude']", "['unchanged', 'nodule']",
        "['normal', 'nodule']", "['nodule'", "__import__('os').getcwd()", "nan", "[]", "'nodule'", "[1]", r"['\ud800']",
    ]  # fmt: skip
    lines = [f'{i}.png,s{i},p{i},PA,"{cell}"' for i, cell in enumerate(cells)]
    table = read(written(tmp_path, "\n".join(["ImageID,StudyID,PatientID,Projection,Labels", *lines])))
    assert by_image(table) == {"0.png": [], "1.png": ["mass", "nodule"], "3.png": ["nodule"]}
    assert table.classes == ("mass", "nodule")
    malformed = "labels cannot be parsed"
    assert reasons(table) == {
        3: "no labels", 5: "contradictory: no finding, and findings", 6: malformed, 7: malformed, 8: "no labels",
        9: "no labels", 10: malformed, 11: malformed, 12: malformed,
    }  # fmt: skip


def chexpert_row(path, **values):
    return ",".join([path, "Female", "68", "Frontal", "AP", *(values.get(name, "") for name in ("nf", *CHEXPERT))])


def test_chexpert_rules(tmp_path):
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", *CHEXPERT])
    base = "CheXpert-v1.0-small/train/patient00012/study3/view1_frontal.jpg"
    rows = [
        chexpert_row(base, Edema="1.0", Fracture="-1.0", Pneumonia="0.0"),
        chexpert_row(base.replace("view1", "view2"), nf="1.0", **{"Support Devices": "1.0"}),
        chexpert_row(base.replace("view1", "view3"), nf="1.0", Edema="1.0"),
        chexpert_row(base.replace("view1", "view4"), Edema="2"),
        chexpert_row("somewhere/view5.jpg", Edema="1.0"),
    ]
    table = read(written(tmp_path, "\n".join([header, *rows])))
    assert list(by_image(table).values()) == [["Edema"], ["Support Devices"]]
    assert list(by_image(table, "uncertain").values()) == [["Fracture"], []]
    assert not any(by_image(table, "unknown").values()), "CheXpert's blanks are negative"
    first = table.images.to_pylist()[0]
    assert (first["patient_id"], first["study_id"], first["path"]) == ("patient00012", "patient00012/study3", base)
    assert (first["view"], first["split"]) == ("AP", "")
    assert reasons(table) == {
        3: "contradictory: no finding, and findings",
        4: "the column 'Edema' holds neither 1, 0, -1 nor a blank",
        5: "empty patient id",
    }


def test_mimic_rules(tmp_path):
    header = "subject_id,study_id," + ",".join(sorted([*CHEXPERT, "No Finding"])) + ",dicom_id,ViewPosition,split"
    cells = ",".join("1.0" if name == "Edema" else "" for name in sorted([*CHEXPERT, "No Finding"]))
    table = read(written(tmp_path, f"{header}\n10000032,50414267,{cells},02aa804e-bde0afdd,PA,validate\n"))
    assert table.format == "mimic"
    row = table.images.to_pylist()[0]
    assert row["path"] == "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg"
    assert (row["image_id"], row["patient_id"], row["split"]) == ("02aa804e-bde0afdd", "10000032", "validation")
    assert (row["labels"], row["unknown"]) == (["Edema"], [])


def test_mimic_without_the_metadata_says_what_to_join(tmp_path):
    header = "subject_id,study_id," + ",".join([*CHEXPERT, "No Finding"])
    path = written(tmp_path, f"{header}\n10000032,50414267,{',' * 13}\n")
    with pytest.raises(InputError, match=r"dicom_id.*join mimic-cxr-2.0.0-chexpert.csv with"):
        read(path)


def test_cxr_lt_rules(tmp_path):
    path = written(
        tmp_path,
        "dicom_id,subject_id,study_id,ViewPosition,fpath,Adenopathy,Atelectasis,Calcification of the Aorta,Edema,"
        "Fracture,Pneumonia,Round(ed) Atelectasis,Support Devices,Normal,Age\n"
        "d1,10000032,5,PA,files/p10/p10000032/s5/d1.jpg,1,0,0,0,0,0,1,0,0,55\n"
        "d2,10000033,6,AP,files/p10/p10000033/s6/d2.jpg,0,0,0,0,0,0,0,0,1,60\n"
        "d3,10000033,6,AP,files/p10/p10000033/s6/d3.jpg,,,,,,,,,,60\n"
        "d4,10000033,6,AP,files/p10/p10000033/s6/d4.jpg,0,,0,7,0,0,0,0,0,60\n",
    )
    table = read(path)
    assert table.format == "cxr_lt"
    assert table.classes[:2] == ("Adenopathy", "Atelectasis")
    assert not {"Normal", "Age"} & set(table.classes)
    assert by_image(table) == {"d1": ["Adenopathy", "Round(ed) Atelectasis"], "d2": []}
    assert table.images["path"].to_pylist()[0] == "files/p10/p10000032/s5/d1.jpg"
    assert reasons(table) == {3: "no labels", 4: "the column 'Edema' holds neither 1, 0, -1 nor a blank"}


def test_csv_one_hot(tmp_path):
    path = written(
        tmp_path,
        "image,patient_id,split,age,sex,Mass,Edema,Hernia,Never,Empty,Doubt,No_Finding\n"
        "a,007,TRAIN,50,M,1,0,1.0,0,,-1,0\n"
        "b,7,dev,51,F,,-1,0.0,0,,-1,\n"
        "c,8,test,52,F,,,,,,,1\n"
        "d,8,final,52,F,1,0,0,0,,,0\n"
        "e,8,,52,F,,,,,,,\n",
    )
    table = read(path)
    assert table.classes == ("Mass", "Edema", "Hernia", "Never")
    assert by_image(table) == {"a": ["Mass", "Hernia"], "b": [], "c": []}
    assert by_image(table, "uncertain") == {"a": [], "b": ["Edema"], "c": []}
    assert by_image(table, "unknown") == {"a": [], "b": ["Mass"], "c": []}, "no finding at all: nothing is unknown"
    assert table.images["split"].to_pylist() == ["train", "validation", "test"]
    assert table.images["patient_id"].to_pylist() == ["007", "7", "8"]
    assert reasons(table) == {4: "unknown split (expected train, validation or test)", 5: "no labels"}


def test_csv_with_own_columns_and_separator(tmp_path):
    path = written(
        tmp_path,
        "file;who;hospital;found\n".replace(";", ",") + "x/a.png,1,H,mass; edema ;\nx/b.png,2,H,normal\n",
    )
    columns = {"image": "file", "patient_id": "who", "source": "hospital", "labels": "found"}
    table = read(path, columns=columns, separator=";")
    assert by_image(table) == {"x/a.png": ["edema", "mass"], "x/b.png": []}
    assert table.images["source"].to_pylist() == ["H", "H"]
    assert table.images["path"].to_pylist() == ["x/a.png", "x/b.png"]


def test_classes_of_the_configuration(tmp_path):
    path = written(tmp_path, "image,patient_id,labels\na,1,Mass|Edema\nb,1,Hernia\n")
    table = read(path, classes=["Hernia", "Mass"])
    assert table.classes == ("Hernia", "Mass")
    assert by_image(table) == {"a": ["Mass"], "b": ["Hernia"]}
    with pytest.raises(ConfigError, match=r"\['mas'\].*nearest to 'mas': Mass"):
        read(path, classes=["Hernia", "mas"])
    hot = written(tmp_path, "image,patient_id,Mass,Edema\na,1,1,0\n", "hot.csv")
    assert read(hot, classes=["Edema"]).classes == ("Edema",)
    with pytest.raises(ConfigError, match="'Mass', 'Edema'"):
        read(hot, classes=["Zzz"])


# Bad rows and files


def test_bad_rows_are_rejected_with_their_numbers(tmp_path):
    path = written(
        tmp_path,
        b"image,patient_id,labels\n"
        b"a,1,Mass\n"
        b" ,1,Mass\n"
        b"b,,Mass\n"
        b"c,1\n"
        b"\n"
        b"d,1,Mass,extra,cells\n"
        b"a,2,Edema\n"
        b'e,1,"Mass|\nEdema"\n'
        b"\xff\xfe,1,Mass\n"
        b"f,1,Mass\n"
        b"\xff,1\n"
        b"g\xc3\xa9,1,Mass\n",
    )
    table = read(path)
    assert by_image(table) == {"a": ["Mass"], "f": ["Mass"], "gé": ["Mass"]}
    assert reasons(table) == {
        2: "empty image id",
        3: "empty patient id",
        4: "has 2 cells, expected 3",
        5: "has 5 cells, expected 3",
        6: "duplicate image id",
        7: "a line break inside a cell (is a quote left open?)",
        8: "not UTF-8 text",
        10: "has 2 cells, expected 3",
    }
    assert table.rejected["row_id"].to_pylist()[0] == "labels.csv:2"
    assert set(table.rejected["source"].to_pylist()) == {"labels.csv"}


def test_a_bad_row_does_not_take_the_place_of_a_good_one(tmp_path):
    table = read(written(tmp_path, "image,patient_id,labels\na,,Mass\na,1,Edema\n"))
    assert by_image(table) == {"a": ["Edema"]}


def test_no_patients_no_splits(tmp_path):
    path = written(tmp_path, "image,labels\na,Mass\n")
    with pytest.raises(
        InputError, match=r"lacks the columns \['patient_id'\].*it has \['image', 'labels'\].*by patient"
    ):
        read(path)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty"),
        ("image,patient_id,labels\n", {}, "no rows"),
        ("image,image,patient_id\na,b,c\n", {}, "twice"),
        ("image,patient_id,age\na,1,50\n", {}, "has no labels"),
        ("image,patient_id,labels\na,1,M\n", {"columns": {"view": "position"}}, r"lacks the columns \['position'\]"),
        ("image,patient_id,labels\na,1,M\n", {"format": "nih14"}, "Image Index"),
        (b"\xff\xfei\0m\0a\0g\0e\0", {}, "UTF-8"),
    ],
)
def test_unusable_tables(tmp_path, text, options, message):
    with pytest.raises(InputError, match=message):
        read(written(tmp_path, text), **options)


def test_unusable_files(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="can't be read"):
        read(written(tmp_path, "no gzip at all", "labels.csv.gz"))
    with pytest.raises(InputError, match="can't be read"):
        read(written(tmp_path, "no parquet", "labels.parquet"))
    with pytest.raises(ConfigError, match=r"labels.columns has the keys \['picture'\]"):
        read(written(tmp_path, "image,patient_id,labels\na,1,M\n"), columns={"picture": "image"})


def test_other_files_hold_the_same_table(tmp_path):
    text = "image,patient_id,Mass,Edema\na,007,1,0\nb,8,0,1\n"
    expected = read(written(tmp_path, text)).images
    assert read(written(tmp_path, "\ufeff" + text, "bom.csv")).images.equals(expected)
    assert read(written(tmp_path, gzip.compress(text.encode()), "labels.csv.gz")).images.equals(expected)
    assert read(written(tmp_path, text.replace(",", "\t"), "labels.tsv")).images.equals(expected)
    assert read(written(tmp_path, text.replace("\n", "\r\n"), "windows.csv")).images.equals(expected)
    assert read(f"file://{written(tmp_path, text)}").images.equals(expected)
    table = pa.table(
        {"image": ["a", "b"], "patient_id": ["007", "8"], "Mass": [True, False], "Edema": pa.array([0.0, 1.0])}
    )
    pq.write_table(table, tmp_path / "labels.parquet")
    assert read(tmp_path / "labels.parquet").images.equals(expected)


# Arrays


def test_positives(tmp_path):
    table = read(written(tmp_path, "image,patient_id,A,B,C\nx,1,1,-1,\ny,1,0,0,1\n"))
    classes = ("C", "A", "B", "not there")
    Y, M = positives(table.images, classes)
    assert (Y.dtype, M.dtype) == (np.float32, np.bool_)
    np.testing.assert_array_equal(Y, [[0, 1, 0, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(M, [[0, 1, 0, 1], [1, 1, 1, 1]])
    Y, M = positives(table.images, classes, uncertain="positive")
    np.testing.assert_array_equal(Y[0], [0, 1, 1, 0])
    np.testing.assert_array_equal(M[0], [0, 1, 1, 1])
    Y, M = positives(table.images, classes, uncertain="negative")
    np.testing.assert_array_equal(Y[0], [0, 1, 0, 0])
    np.testing.assert_array_equal(M[0], [0, 1, 1, 1])
    twice = pa.concat_tables([table.images, table.images.slice(1)])
    np.testing.assert_array_equal(positives(twice, classes)[0], [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    assert positives(table.images.slice(0, 0), classes)[0].shape == (0, 4)
