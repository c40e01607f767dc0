"""ImageNet's class names. tests/parity compares all of them with torchvision's."""

import pathlib
import tomllib

import pytest

from input_pipeline import imagenet

ROOT = pathlib.Path(__file__).parents[2]


def test_classes_that_publications_name_by_their_numbers():
    ids, names = (list(part) for part in zip(*imagenet.class_names().items(), strict=True))
    assert len(ids) == len(set(names)) == 1000
    assert ids == sorted(ids)  # the order of the data set and of all published networks
    expected = {
        **{0: ("n01440764", "tench"), 207: ("n02099601", "golden retriever")},
        **{281: ("n02123045", "tabby"), 388: ("n02510455", "giant panda")},
        999: ("n15075141", "toilet tissue"),
    }
    assert {i: (ids[i], names[i]) for i in expected} == expected


def test_names_that_are_no_ids_stay():
    assert imagenet.readable("n02510455") == "giant panda"
    assert imagenet.readable("panda") == "panda"


def test_folders_of_imagenet_in_the_order_of_published_networks():
    ids, english = (list(part) for part in zip(*imagenet.class_names().items(), strict=True))
    assert imagenet.in_published_order(ids) == tuple(ids)
    numbers = tuple(map(str, range(1000)))
    assert imagenet.in_published_order(sorted(numbers)) == numbers
    folders = tuple(name.replace(" ", "_").replace("/", "-") for name in english)
    assert imagenet.in_published_order(sorted(folders)) == folders
    lower = tuple(name if name == "Cardigan" else name.lower() for name in folders)
    assert imagenet.in_published_order(sorted(lower)) == lower
    for wrong, count in (("kitten", "not a"), ("TENCH", "a second"), ("0", "not a")):
        with pytest.raises(ValueError, match=f"^{wrong} is {count} name of a class of ImageNet$"):
            imagenet.in_published_order([*folders[:-1], wrong])


def test_an_installed_package_has_its_data_files():
    """Every file in a package that is not Python is named in pyproject.toml."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = [ROOT / name.replace(".", "/") for name in setuptools["packages"]]
    files = [file for package in packages for file in package.iterdir() if file.is_file()]
    data = {str(file.relative_to(ROOT)) for file in files if file.suffix not in (".py", ".pyc")}
    named = setuptools["package-data"].items()
    assert data == {f"{package}/{file}" for package, names in named for file in names}
