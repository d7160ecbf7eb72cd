"""OpenI / Indiana University chest X-ray collection: one XML file per report.

Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and retrieval", JAMIA 2016.
The archive comes with the torchxrayvision package and is read from there at run time (CC BY-NC-ND 4.0: never copy
its text).
"""

from __future__ import annotations

import re
import tarfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from raymedlt.reports.readers.base import Unit
from raymedlt.reports.readers.files import BROKEN, damaged, empty, fingerprint, open_binary
from raymedlt.reports.readers.packaged import packaged_fingerprint, packaged_root
from raymedlt.reports.records import MAX_CHARS, NOT_UTF8, NUL_BYTES, Row, make_row, reject, tables
from raymedlt.storage import Storage

PACKAGED = "NLMCXR_reports.tgz"
ARCHIVES = (".tgz", ".tar.gz", ".tar")

FILES_PER_UNIT = 1_000
MAX_XML_BYTES = 16 * 2**20

_ENCODING = re.compile(rb"^\s*<\?xml[^>]*\bencoding\s*=\s*[\"']([^\"']*)[\"']")
_VIEWS = (
    ("PA", re.compile(r"\bPA\b|\bposter[oi]+anterior\b", re.IGNORECASE)),
    ("AP", re.compile(r"\bAP\b|\banteroposterior\b")),
    ("FRONTAL", re.compile(r"\bfrontal\b", re.IGNORECASE)),
    ("LATERAL", re.compile(r"\blat(?:eral)?\b", re.IGNORECASE)),
)


@dataclass(frozen=True, kw_only=True)
class OpenIReader:
    """The reports of an archive (one unit) or of a folder of XML files (units of `FILES_PER_UNIT` by sorted name).

    report_id and study_id are the file's uId ("CXR1"). OpenI has no patient ids: patient_id is the same id, so a
    patient with two reports counts as two. Labels are the major MeSH strings. Everything is "train". Comparison is not
    read. Views are what the image captions say, which are about the study, not the single image (`views_of`).
    """

    root: Storage | None = None
    """None: the packaged archive, looked up where the reader runs."""
    names: tuple[str, ...] = (PACKAGED,)
    language: str = "en"
    max_chars: int = MAX_CHARS

    def units(self) -> list[Unit]:
        if self.root is None:
            return [Unit(PACKAGED, packaged_fingerprint(PACKAGED), None, (PACKAGED,))]
        archives = [name for name in self.names if name.lower().endswith(ARCHIVES)]
        for name in self.names:
            if (name in archives or len(self.names) == 1) and not self.root.size(name):
                raise empty(name)
        units = [Unit(name, fingerprint(self.root, [name]), None, (name,)) for name in archives]
        files = [name for name in self.names if name not in set(archives)]
        for start in range(0, len(files), FILES_PER_UNIT):
            group = tuple(files[start : start + FILES_PER_UNIT])
            units.append(Unit(f"xml-{start // FILES_PER_UNIT:04d}", fingerprint(self.root, group), len(group), group))
        return units

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        archive = unit.files[0] if unit.files[0].lower().endswith(ARCHIVES) else None
        return tables(self._row(name, archive or name, data) for name, data in self._documents(unit, archive))

    def _documents(self, unit: Unit, archive: str | None) -> Iterator[tuple[str, bytes]]:
        root = self.root or packaged_root()
        if archive is not None:
            yield from _members(root, archive)
            return
        for name in unit.files:
            with root.open_input(name) as file:
                yield name, file.read(MAX_XML_BYTES + 1)

    def _row(self, name: str, source: str, data: bytes) -> Row:
        document = parse_xml(data)
        if isinstance(document, str):
            return reject(name, source, document)
        identifier = document.find("uId")
        report_id = identifier.get("id", "") if identifier is not None else ""
        texts: dict[str, list[str]] = {}
        for part in document.iter("AbstractText"):
            texts.setdefault(part.get("Label", "").upper(), []).append("".join(part.itertext()).strip())
        images = document.findall("parentImage")
        return make_row(
            row_id=name,
            source=source,
            report_id=report_id,
            study_id=report_id,
            patient_id=report_id,
            findings=" ".join(texts.get("FINDINGS", ())),
            impression=" ".join(texts.get("IMPRESSION", ())),
            indication=" ".join(texts.get("INDICATION", ())),
            views=views_of([image.findtext("caption") or "" for image in images]),
            image_ids=[image.get("id", "") for image in images],
            labels=[text for major in document.findall("MeSH/major") if (text := (major.text or "").strip())],
            language=self.language,
            max_chars=self.max_chars,
        )


def parse_xml(data: bytes) -> ET.Element | str:
    """The document, or the reason why it is refused.

    A DOCTYPE is refused unseen: it is what entity bombs and external entities need. That the bytes are UTF-8 and no
    other encoding is declared is checked first, so that no encoding can hide one.
    """
    if len(data) > MAX_XML_BYTES:
        return f"longer than {MAX_XML_BYTES} bytes"
    if b"\0" in data:
        return NUL_BYTES
    declared = _ENCODING.match(data.removeprefix(b"\xef\xbb\xbf"))
    if declared is not None and declared[1].lower() not in (b"utf-8", b"utf8", b"us-ascii", b"ascii"):
        return NOT_UTF8
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return NOT_UTF8
    if b"<!DOCTYPE" in data:
        return "XML holds a DOCTYPE"
    try:
        return ET.fromstring(data)
    except (ET.ParseError, ValueError, LookupError):
        return "XML cannot be parsed"


def views_of(captions: list[str]) -> list[str]:
    """The views that a study's image captions name: "PA", "AP", "FRONTAL", "LATERAL", each once.

    De-identification took words out of captions ("Chest XXXX and lateral"): where only the lateral view is left of a
    caption with such a gap, or of a study with two images, the other is taken to be frontal.
    """
    text = " | ".join(captions)
    views = [view for view, pattern in _VIEWS if pattern.search(text)]
    if views == ["LATERAL"] and (len(captions) > 1 or "XXXX" in text):
        return ["FRONTAL", "LATERAL"]
    return views


def _members(root: Storage, name: str) -> Iterator[tuple[str, bytes]]:
    found = False
    with open_binary(root, name) as file:
        try:
            with tarfile.open(fileobj=file, mode="r|") as archive:
                for member in archive:
                    if not member.isfile() or not member.name.endswith(".xml") or "/." in f"/{member.name}":
                        continue
                    content = archive.extractfile(member)
                    if content is not None:
                        found = True
                        yield member.name, content.read(MAX_XML_BYTES + 1)
        except (tarfile.TarError, *BROKEN) as error:
            raise damaged(name, error) from None
    if not found:
        raise empty(name, "holds no XML file")
