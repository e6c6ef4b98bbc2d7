"""Images in '.tar' and '.zip': read where they lie, and harmless whatever the archive says."""

import io
import re
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.image_files import GREY, JPEG, RGBA, SHARP, WHOLE, encoded, png_header

from opponent import Unreadable, open_images
from opponent.images.archives import expand
from opponent.images.decode import decode, load_image
from opponent.images.fit import Fit

PNG = encoded(SHARP, "PNG")


def tar(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def ids(source: object) -> list[str]:
    return [entry.id for entry in open_images(source)]


def test_a_webdataset_shard(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        {
            "000.png": PNG, "000.cls": b"7", "000.json": b"{}", "sub.dir/001.x.PNG": PNG,
            "002.npy": b"an embedding", "./003.jpg": JPEG, ".hidden.png": PNG, "004.jpg": b"broken",
        },
    )  # fmt: skip
    images = open_images(path)
    assert [entry.id for entry in images] == ["000", "sub.dir/001", "003", "004"]
    assert (images.source, images.origin) == (str(path), None)
    for entry in images[:2]:
        np.testing.assert_array_equal(np.asarray(decode(entry)), SHARP)
    assert decode(images[2]).size == (60, 40)
    with pytest.raises(Unreadable, match=r"^not an image$"):
        decode(images[3])
    assert images[3].where == f"004 in {path}"
    # Only its own bytes are read.
    member = images[0].member
    assert member is not None
    assert path.read_bytes()[member.offset :][: member.length] == PNG


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_with_long_names(tmp_path: Path, format: int) -> None:
    name = "folder/" * 12 + "ü" * 20 + ".png"
    images = open_images(tar(tmp_path / "a.tar", {name: PNG, "b.png": PNG}, format=format))
    assert [entry.id for entry in images] == [name.removesuffix(".png"), "b"]
    np.testing.assert_array_equal(np.asarray(decode(images[0])), SHARP)


def test_several_shards(tmp_path: Path) -> None:
    for shard in range(3):
        tar(tmp_path / f"s-{shard:02d}.tar", {f"{shard}{k}.png": PNG for k in "ab"})
    expected = ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert ids(tmp_path) == ids(str(tmp_path / "s-{00..02}.tar")) == expected
    assert ids(str(tmp_path / "s-*.tar")) == expected
    assert ids([tmp_path / f"s-{n:02d}.tar" for n in (0, 1, 2)]) == expected
    (tmp_path / "list.txt").write_text("s-02.tar\ns-00.tar\n")
    assert ids(tmp_path / "list.txt") == ["2a", "2b", "0a", "0b"]
    with pytest.raises(FileNotFoundError, match=r"s-03.tar: no such file$"):
        open_images(str(tmp_path / "s-{02..03}.tar"))
    with pytest.raises(FileNotFoundError, match=r"no file fits the pattern"):
        open_images(str(tmp_path / "t-*.tar"))
    # Beside a picture, archives do not count.
    (tmp_path / "picture.png").write_bytes(PNG)
    assert ids(tmp_path) == ["picture.png"]


def test_ids_that_several_would_have(tmp_path: Path) -> None:
    members = {"0.png": PNG, "0.seg.png": encoded(GREY, "PNG"), "1.png": PNG}
    tar(tmp_path / "a.tar", members)
    tar(tmp_path / "b.tar", {"1.png": PNG, "2.png": PNG})
    assert ids(tmp_path) == ["a.tar/0.png", "a.tar/0.seg.png", "a.tar/1.png", "b.tar/1.png", "2"]


def test_of_a_path_held_twice_the_last_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for content in (encoded(GREY, "PNG"), PNG):
            info = tarfile.TarInfo("a.png")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    [entry] = open_images(tmp_path / "a.tar")
    np.testing.assert_array_equal(np.asarray(decode(entry)), SHARP)


def test_braces() -> None:
    assert [str(path) for path in expand("a/{x,y}-{08..10}.tar")] == [
        f"a/{letter}-{number}.tar" for letter in "xy" for number in ("08", "09", "10")
    ]
    assert expand("plain.tar") == [Path("plain.tar")]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip(tmp_path: Path, method: int) -> None:
    members = {
        "b/1.png": PNG, "a.bmp": encoded(SHARP, "BMP"), "notes.txt": b"no", "c.tif": b"II*\0broken",
        "__MACOSX/a.png": PNG, "d.webp": WHOLE["webp"][:40],
    }  # fmt: skip
    path = zipped(tmp_path / "a.zip", members, method)
    images = open_images(path)
    assert [entry.id for entry in images] == ["b/1.png", "a.bmp", "c.tif", "d.webp"]
    for entry in images[:2]:
        np.testing.assert_array_equal(np.asarray(decode(entry)), SHARP)
    for entry in images[2:]:
        with pytest.raises(Unreadable, match=r"truncated|damaged"):
            decode(entry)


def test_a_zip_with_a_member_without_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.png", encoded(SHARP, "PNG"))
        archive.writestr("y", b"nothing")
    content = path.read_bytes()
    # The name of the second, in the list at the end: of length 0, its letter a part of the extra.
    at = content.rindex(b"PK\x01\x02")
    nameless = content[: at + 28] + b"\0\0\1\0" + content[at + 32 :]
    path.write_bytes(nameless)
    assert [entry.id for entry in open_images(path)] == ["x.png"]


def test_zips_that_cannot_be_read(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a.bmp": encoded(RGBA, "BMP")}, zipfile.ZIP_LZMA)
    with pytest.raises(Unreadable, match=r"^packed by method 14 of zip; only 'deflate' is read$"):
        decode(open_images(path)[0])
    whole = bytearray(zipped(tmp_path / "b.zip", {"a.png": PNG}).read_bytes())
    for at, value, reason in [
        (6, 1, "^encrypted$"),
        (0, 0, "holds no file where its list says so; was it changed"),
        (40, 0xFF, "^damaged in its archive: |^truncated|^damaged|^not an image"),
    ]:
        damaged = bytearray(whole)
        damaged[at] = value
        (tmp_path / "c.zip").write_bytes(damaged)
        with pytest.raises(Unreadable, match=reason):
            decode(open_images(tmp_path / "c.zip")[0])
    (tmp_path / "d.zip").write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"d.zip is no zip archive, or damaged: "):
        open_images(tmp_path / "d.zip")


def test_tars_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_bytes(b"no archive at all" * 100)
    with pytest.raises(ValueError, match=r"text.tar is no tar archive, or damaged: "):
        open_images(tmp_path / "text.tar")
    (tmp_path / "a.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.tar.gz is packed, .*: unpack it to .tar$"):
        open_images(tmp_path / "a.tar.gz")
    with pytest.raises(ValueError, match=r"has no images"):
        open_images(tar(tmp_path / "none.tar", {"a.txt": b"text"}))
    # Cut within the second image: the first serves, the second is reported.
    whole = tar(tmp_path / "b.tar", {"0.jpg": JPEG, "1.jpg": JPEG}).read_bytes()
    images = open_images(tmp_path / "b.tar")
    second = images[1].member
    assert second is not None
    (tmp_path / "b.tar").write_bytes(whole[: second.offset + 100])
    images = open_images(tmp_path / "b.tar")
    assert decode(images[0]).size == (60, 40)
    with pytest.raises(Unreadable, match=rf"^truncated: 100 of {len(JPEG):,} bytes are in the arc"):
        decode(images[1])
    assert images[1].bytes == -1


def test_names_that_lead_out_of_the_archive_write_nothing(tmp_path: Path) -> None:
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    names = ["../../out.png", "/tmp/absolute-opponent.png", "a\\..\\win.png", "a/../../b.png"]
    tar(inside / "a.tar", dict.fromkeys(names, PNG))
    zipped(inside / "b.zip", dict.fromkeys(names, PNG))
    before = sorted(tmp_path.rglob("*"))
    for name in ("a.tar", "b.zip"):
        images = open_images(inside / name)
        assert len(images) == len(names)
        for entry in images:
            np.testing.assert_array_equal(np.asarray(decode(entry)), SHARP)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/absolute-opponent.png").exists()


def test_links_and_devices_do_not_count(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, kind in enumerate(kinds):
            info = tarfile.TarInfo(f"{number}.png")
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
        info = tarfile.TarInfo("real.png")
        info.size = len(PNG)
        archive.addfile(info, io.BytesIO(PNG))
    assert ids(tmp_path / "a.tar") == ["real"]
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive_:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive_.writestr(link, str(secret))
        archive_.writestr("real.png", PNG)
    assert ids(tmp_path / "b.zip") == ["real.png"]


def test_bombs_are_refused_before_they_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)
    large = PNG + bytes(10**6)  # a thousandth, when packed
    bomb = png_header(12000, 9000)
    images = open_images(zipped(tmp_path / "a.zip", {"large.png": large, "bomb.png": bomb}))
    with pytest.raises(Unreadable, match=r"^more than 400,000 bytes when unpacked, which is not"):
        decode(images[0])
    with pytest.raises(Unreadable, match=r"^larger than 0 megapixels \(12000 x 9000\)$"):
        decode(images[1])
    images = open_images(tar(tmp_path / "a.tar", {"large.png": large, "bomb.png": bomb}))
    with pytest.raises(Unreadable, match=r"^1,000,\d+ bytes in an archive; at most 400,000 are re"):
        decode(images[0])
    with pytest.raises(Unreadable, match=r"^larger than 0 megapixels \(12000 x 9000\)$"):
        decode(images[1])


def test_no_damage_to_an_archive_raises_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**5)
    members = {"a/0.png": PNG, "1.jpg": JPEG, "2.npy": b""}
    rng = np.random.default_rng(0)
    outcomes = set()
    for make, end in ((tar, "tar"), (zipped, "zip")):
        whole = make(tmp_path / f"whole.{end}", members).read_bytes()
        for _ in range(150):
            data = bytearray(whole)
            for place in rng.integers(0, len(data), rng.integers(1, 9)):
                data[place] = rng.integers(256)
            path = tmp_path / f"a.{end}"
            path.write_bytes(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else data)
            try:
                images = open_images(path)
            except ValueError as error:
                outcomes.add("refused" if re.search("damaged|no images", str(error)) else "?")
                continue
            for entry in images:
                try:
                    outcomes.add(load_image(entry, Fit(size=(4, 4))).shape)
                except Unreadable:
                    outcomes.add("unreadable")
    assert outcomes == {"refused", "unreadable", (4, 4, 3)}


def test_arrays_in_an_archive(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.save(data, SHARP)
    packed = io.BytesIO()
    np.savez_compressed(packed, image=SHARP)
    path = tar(tmp_path / "a.tar", {"0.npy": data.getvalue(), "1.npz": packed.getvalue()})
    images = open_images(path)
    assert [entry.id for entry in images] == ["0", "1"]
    for entry in images:
        np.testing.assert_array_equal(np.asarray(decode(entry)), SHARP)


def test_the_digest_knows_an_image_by_its_size(tmp_path: Path) -> None:
    first = open_images(tar(tmp_path / "a.tar", {"0.png": PNG, "1.png": PNG}))
    (tmp_path / "moved").mkdir()
    moved = open_images(tar(tmp_path / "moved" / "a.tar", {"0.png": PNG, "1.png": PNG}))
    assert first.digest() == moved.digest()
    other = open_images(tar(tmp_path / "b.tar", {"0.png": PNG, "1.png": encoded(GREY, "PNG")}))
    assert other.digest() != first.digest()
    (tmp_path / "a.tar").unlink()
    assert first.digest() != moved.digest()
