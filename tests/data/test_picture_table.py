"""Tables of pictures: what is read, and one sentence for what is wrong."""

import warnings
from pathlib import Path

import pytest

from tests.data.image_folders import write_image
from wiring_lightning.data import ImageFolder
from wiring_lightning.data._picture_table import find_below, read_table, write_table


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four ants and four bees, all in one folder, and one in another."""
    for name in ("ant0", "ant1", "ant2", "ant3", "bee0", "bee1", "bee2", "sub/bee3"):
        write_image(tmp_path / f"{name}.png", (9, 9))
    return tmp_path


ROWS = [
    (f"{c}{i}.png" if (c, i) != ("bee", 3) else "sub/bee3.png", c)
    for c in ("ant", "bee")
    for i in range(4)
]


def make(root: Path, text: str | bytes, **options: object) -> ImageFolder:
    table = root / "table.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    data = ImageFolder(str(root), table=str(table), image_size=8, num_workers=0, **options)
    data.setup("fit")
    return data


def text_of(rows: list[tuple[str, ...]], header: str = "path,label") -> str:
    return "\n".join([header, *(",".join(row) for row in rows)]) + "\n"


def labels_by_name(data: ImageFolder) -> dict[str, int]:
    """The label of every picture in any split."""
    return {
        Path(path).relative_to(data.root).as_posix(): label
        for paths, labels in data.read_splits()
        for path, label in zip(paths, labels.tolist(), strict=True)
    }


def test_a_table_names_pictures_and_classes(root: Path) -> None:
    data = make(root, text_of(ROWS))
    assert (data.class_names, data.num_classes) == (["ant", "bee"], 2)
    assert labels_by_name(data) == {name: int(label == "bee") for name, label in ROWS}
    assert str(data).startswith("ImageFolder: 4 training, 2 validation and 2 test images")


@pytest.mark.parametrize(
    "text",
    [
        text_of(ROWS).encode("utf-8-sig"),
        text_of(ROWS).encode("utf-16"),
        text_of(ROWS).replace(",", ";").encode(),
        text_of(ROWS).replace(",", "\t").replace("\n", "\r\n").encode(),
        text_of([(label, "x", f' "{name}" ') for name, label in ROWS], "Label,other,Path")
        .replace(' "', '"')
        .encode(),
        (text_of(ROWS) + "\n ,\n").encode(),
    ],
    ids=["mark", "utf-16", "semicolons", "tabs", "columns", "empty lines"],
)
def test_programs_write_tables_in_many_ways(root: Path, text: bytes) -> None:
    assert labels_by_name(make(root, text)) == labels_by_name(make(root, text_of(ROWS)))


def test_a_table_may_tell_the_splits(root: Path) -> None:
    splits = ["train", "train", "val", "test"] * 2
    rows = [(*row, split) for row, split in zip(ROWS, splits, strict=True)]
    data = make(root, text_of(rows, "path,label,split"))
    found = [[Path(path).name for path in paths] for paths, _ in data.read_splits()]
    assert found == [
        ["ant0.png", "ant1.png", "bee0.png", "bee1.png"],
        ["ant2.png", "bee2.png"],
        ["ant3.png", "bee3.png"],
    ]
    assert data.predict_names == ["ant3.png", "sub/bee3.png"]
    assert data.predict_labels == ["ant", "bee"]
    assert "split" not in data.state_dict()


def test_absolute_paths_need_no_root(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [(str(root / name), label) for name, label in ROWS]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    data = make(elsewhere, text_of(rows))
    assert sorted(path for paths, _ in data.read_splits() for path in paths) == sorted(
        name for name, _ in rows
    )


def test_the_order_of_the_classes_can_be_chosen(root: Path) -> None:
    data = make(root, text_of(ROWS), class_names=["bee", "ant"])
    assert labels_by_name(data) == {name: int(label == "ant") for name, label in ROWS}


@pytest.mark.parametrize("last", ["z", "z ", " z", "z\n", "\r\nz", "z\rz", '"z" '])
def test_what_is_written_is_read(last: str) -> None:
    splits = {
        "train": [('a "b",c.png', "x;y"), ("d\u00e9.png", "z")],
        "val": [],
        "test": [("e", last)],
    }
    read, told = read_table(write_table(splits), "The table", lambda path, _: (path, path))
    assert told
    assert read == splits


def test_names_in_the_other_unicode_form_are_found(tmp_path: Path) -> None:
    write_image(tmp_path / "e\u0301.png", (9, 9))
    assert find_below(tmp_path)("\u00e9.png", "x")[0] == "e\u0301.png"


HEAD = "path,label\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no column 'path' (its first line has nothing)"),
        ("ant0.png,ant\n", "has no column 'path' (its first line has ant0.png, ant)"),
        ("path,class\nant0.png,ant\n", "has no column 'label' (its first line has path, class)"),
        (HEAD, "names no picture"),
        (HEAD + "ant0.png,ant\nwasp.png,bee\n", "names 'wasp.png' in line 3, but there is no such"),
        (HEAD + "sub,ant\n", "names 'sub' in line 2, but there is no such"),
        (HEAD + "x" * 300 + ".png,ant\n", "in line 2, but that path cannot be read (File name too"),
        (HEAD + "ant0.png\n", "has no label in line 2"),
        (HEAD + ",ant\n", "has no path in line 2"),
        (HEAD + "ant0.png,ant\n\nant0.png,bee\n", "in line 2 and again in line 4"),
        (HEAD + "ant0.png,ant\nant1.png,ant\n", "has only the class 'ant'"),
        ("path,label,split\nant0.png,ant,dev\n", "has the split 'dev' in line 2"),
        ("path,label,split\nant0.png,ant,\n", "has no split in line 2"),
        ("path,label,split\nant0.png,ant,val\n", "has no picture with the split 'train'"),
        (
            "path,label,split\nant0.png,ant,train\nbee0.png,bee,test\n",
            "has 'bee0.png' of the class 'bee' in the split 'test', but no picture of that class",
        ),
        (HEAD + "ant0.png,ant\nbee0.png,bee\n", "The class 'ant' has 1 picture(s), too few"),
        (HEAD.encode() + b"ant0.png,\xff\xfe\xfd\n", "cannot be read as text"),
        (HEAD + 'ant0.png,"' + "x" * 200_000, "quotation mark without a partner"),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence(root: Path, text: str | bytes, said: str) -> None:
    with pytest.raises((RuntimeError, FileNotFoundError)) as caught:
        make(root, text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["ant3.png,ant,x", "ant3.png,ant,", "ant3.png;ant;small;x"])
def test_a_line_with_more_values_than_columns_is_refused(root: Path, line: str) -> None:
    text = text_of([*ROWS[:3], (line,), *ROWS[4:]])
    if ";" in line:
        text = text.replace(",", ";")
    with pytest.raises(RuntimeError, match=r"has [34] values in line 5, but 2 columns"):
        make(root, text)


@pytest.mark.parametrize(
    "header", ["path,label,label", "Path, label,path", "split,path,label,split"]
)
def test_a_column_that_is_named_twice_is_refused(root: Path, header: str) -> None:
    text = "\n" + text_of([("a",) * 4], header)
    with pytest.raises(RuntimeError, match=r"has the column '\w+' 2 times in line 2;"):
        make(root, text)


def test_other_columns_may_have_one_name(root: Path) -> None:
    rows = [(*row, "x", "y") for row in ROWS]
    data = make(root, text_of(rows, "path,label,,"))
    assert labels_by_name(data) == labels_by_name(make(root, text_of(ROWS)))


def spellings(root: Path) -> list[tuple[str, str]]:
    """Two paths of one picture, in several ways."""
    return [
        ("ant0.png", "sub/../ant0.png"),
        ("ant0.png", "./ant0.png"),
        ("ant0.png", f"../{root.name}/ant0.png"),
        ("sub/bee3.png", str(root / "sub/bee3.png")),
        (str(root / "ant0.png"), str(root / "sub" / ".." / "ant0.png")),
    ]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("relative", [False, True])
def test_one_picture_in_two_spellings_is_refused(
    root: Path, number: int, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root.parent)
    one, other = spellings(root)[number]
    assert (root / one).samefile(root / other)
    text = text_of([(one, "ant"), ("ant1.png", "ant"), (other, "bee")])
    with pytest.raises(RuntimeError, match=r"in line 2 and again in line 4 as '.*'; name each"):
        read_table(text, "The table", find_below(Path(root.name) if relative else root))


@pytest.mark.parametrize(
    "names", [("daisy ", "rose"), (" daisy", "rose\u3000"), ("a", "a "), ("a", "b\t"), ("a", " ")]
)
def test_spaces_at_the_ends_of_names_round_trip(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        for number in range(4):
            write_image(tmp_path / "pictures" / name / f" {number}.png", (9, 9))
    data = ImageFolder(str(tmp_path / "pictures"), image_size=8, num_workers=0)
    data.setup("fit")
    found = data.read_splits()
    folders = {Path(path).parent.name for paths, _ in found for path in paths}
    assert folders == set(names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load_state_dict(data.state_dict())  # what a run does that resumes or tests
    (tmp_path / "split.csv").write_bytes(write_table(data._found.splits).encode())
    again = ImageFolder(data.root, table=str(tmp_path / "split.csv"), image_size=8)
    assert again.read_splits()[0][0] == found[0][0]
    assert (again.class_names, again._found.splits) == (sorted(names), data._found.splits)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["ant", "wasp"], "There are pictures of the class 'bee', which class_names"),
        (["ant", "bee", "wasp"], "There are no pictures of the class 'wasp', which class_names"),
    ],
)
def test_a_label_that_is_not_in_class_names_is_refused(
    root: Path, names: list[str], said: str
) -> None:
    with pytest.raises(RuntimeError, match=said):
        make(root, text_of(ROWS), class_names=names)


def test_a_missing_table_is_named(root: Path) -> None:
    data = ImageFolder(str(root), table=str(root / "no.csv"))
    with pytest.raises(FileNotFoundError, match=r"There is no list '.*no.csv'"):
        data.setup("fit")
