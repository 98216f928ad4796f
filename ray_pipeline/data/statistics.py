"""What `features.fit` learns from the training rows: plain numbers and texts, stored as JSON."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

MISSING, UNKNOWN, FIRST_VALUE = 0, 1, 2
"""Category indices: 0 no value, 1 a value not seen in training, 2… `CategoryStatistics.values`."""

LARGEST_SCORE = 1e4
"""Bound on a standardised number's size; no training value of fewer than 10^8 rows reaches it."""

PERIODS = {"minute": 60, "hour": 24, "weekday": 7, "day": 31, "month": 12, "day_of_year": 366}
"""How many values a part of a date has."""


Task = Literal["classification", "multilabel", "regression", "generation", "retrieval"]
"""What a model does; `multilabel` is a classification where a row may have several classes."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NumberStatistics(_Frozen):
    """An integer, number or boolean column (booleans count as 0 and 1), or a date in seconds.

    `scale` says which further figures there are. `quantile`: `knots`, K rising, distinct quantiles
    of the training values, and `targets`, the K standard normal scores they map to. `log`: the
    mean and deviation of sign(x) log(1 + |x|). `bins`: the B - 1 rising `edges` between B bins, of
    which an edge belongs to the upper.
    """

    name: str
    missing: int
    mean: float
    deviation: float
    median: float
    minimum: float
    maximum: float
    fill: float | None = None
    """What stands for an absent value; the median if None."""
    scale: Literal["quantile", "standard", "log", "bins"] = "standard"
    knots: tuple[float, ...] = ()
    targets: tuple[float, ...] = ()
    log_mean: float = 0.0
    log_deviation: float = 1.0
    edges: tuple[float, ...] = ()

    @property
    def filler(self) -> float:
        return self.median if self.fill is None else self.fill


class CategoryStatistics(_Frozen):
    """A category column: its vocabulary, most frequent first, and how often each value was seen.

    `encode` says how a model reads it: `index` (MISSING, UNKNOWN, FIRST_VALUE + place) and `hash`
    (MISSING, FIRST_VALUE + bucket) among the categories; `onehot`, 0 and 1 for every index, and
    `target` among the numbers: there `encodings` holds K numbers for every index, and what a
    model reads is (encoding - center) / spread.
    """

    name: str
    missing: int
    unknown: int
    values: tuple[str, ...]
    counts: tuple[int, ...]
    encode: Literal["index", "onehot", "hash", "target"] = "index"
    buckets: int = 0
    encodings: tuple[tuple[float, ...], ...] = ()
    center: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """How many indices there are."""
        return (self.buckets if self.encode == "hash" else len(self.values)) + FIRST_VALUE

    @property
    def number_width(self) -> int:
        """How many numbers a model reads of it."""
        return {"onehot": self.size, "target": len(self.center)}.get(self.encode, 0)


class DateStatistics(_Frozen):
    """A date column: its seconds since 1970 as a number, and what a model reads of it.

    Each of the `parts` is a sine and a cosine if `cyclic`, else one number from -1 to 1; all are 0
    where there is no date. With `trend` the seconds are among the scaled numbers too.
    """

    name: str
    seconds: NumberStatistics
    parts: tuple[str, ...]
    cyclic: bool
    trend: bool

    @property
    def number_width(self) -> int:
        return len(self.parts) * (2 if self.cyclic else 1)


class TextStatistics(_Frozen):
    """A text column: its `terms`, those of one word first, and in how many rows each stands."""

    name: str
    missing: int
    rows: int
    terms: tuple[str, ...]
    documents: tuple[int, ...]

    @property
    def number_width(self) -> int:
        return len(self.terms)


class ImageStatistics(_Frozen):
    """An image column: the size that its images get, and each channel's mean and deviation over
    the pixels of training images, 0 to 255."""

    name: str
    missing: int
    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def filler(self) -> tuple[int, ...]:
        """The colour that stands for an absent image."""
        return tuple(round(mean) for mean in self.mean)


class TokenStatistics(_Frozen):
    """A text column that a network reads as tokens: the content of its `tokenizer.json`, how many
    tokens are kept of a text, and the `base` that the tokenizer is that of."""

    name: str
    base: str
    tokenizer: str
    longest: int


class SentenceStatistics(TokenStatistics):
    """A text column that is read as the vector of its meaning, `width` numbers of length 1."""

    width: int

    @property
    def number_width(self) -> int:
        return self.width


class ChatStatistics(TokenStatistics):
    """What a language model learns from: prompts and, in the label's column, their answers; or
    transcripts of chats, if `name` is that column itself.

    Both are written as the base's chat `template` says; without one, an answer stands after its
    prompt's line. `begin` and `end` are the texts of the tokens that a text begins and ends with,
    `cut` how many training rows have more tokens than `longest`.
    """

    template: str
    begin: str
    end: str
    cut: int = 0


class PairStatistics(TokenStatistics):
    """Texts that are to find others, the label: questions, with at most `longest` tokens, and
    passages with at most `passage_longest`, both by one tokenizer."""

    passage_longest: int


class LabelStatistics(_Frozen):
    """The label: its classes in sorted order with their counts, or None for a regression.

    Of a language model, `mean` and `deviation` are those of an answer's number of tokens.

    Where a row may have several classes, or none, a `separator` stands between their names in it;
    names that fewer than `min_rows` training rows have are no classes, and `left_out` is how many
    they are. `weights` are then what the classes' presence counts for in the loss, its absence
    counting 1; all 1 if empty.
    """

    name: str
    classes: tuple[str, ...] | None
    counts: tuple[int, ...] = ()
    separator: str | None = None
    min_rows: int = 1
    left_out: int = 0
    weights: tuple[float, ...] = ()
    mean: float = 0.0
    deviation: float = 1.0


class Statistics(_Frozen):
    """All that turns a raw row into a model's input.

    The model reads `numbers` [N, number_width] float32: the value of each of `scaled`, then a 0/1
    flag for each of `flagged`, which together are the `embedded_width` first; then, as they are,
    the parts of dates, one-hot categories, target encodings, terms and vectors of texts. And
    `categories` [N, len(category_sizes)] int64: the indices of `indexed`, then the bins of
    `binned`. Besides, or instead where a row has nothing else, `tokens` [N, T] of a text and the
    pixels of an `image` [N, H, W, C] uint8. A language model reads `tokens`, and as `targets`
    [N, T] those of them that it is to foretell. Of `pairs` the tokens of both texts are read, as
    `question` and `passage`.
    """

    rows: int
    numbers: tuple[NumberStatistics, ...]
    categories: tuple[CategoryStatistics, ...]
    dates: tuple[DateStatistics, ...] = ()
    texts: tuple[TextStatistics, ...] = ()
    sentences: tuple[SentenceStatistics, ...] = ()
    image: ImageStatistics | None = None
    tokens: TokenStatistics | None = None
    chat: ChatStatistics | None = None
    pairs: PairStatistics | None = None
    label: LabelStatistics
    missing: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a network is called with, by name."""
        if self.chat is not None:
            return ("tokens", "targets")
        if self.pairs is not None:
            return ("question", "passage")
        wide = tuple(name for name in ("tokens", "image") if getattr(self, name) is not None)
        table = self.number_width or self.category_sizes or not wide
        return (("numbers", "categories") if table else ()) + wide

    @property
    def raw(self) -> dict[str, str]:
        """Inputs that no node of a graph makes, and the column that each is made of."""
        parts = {"tokens": self.tokens, "image": self.image}
        return {name: part.name for name, part in parts.items() if part is not None}

    @property
    def scaled(self) -> tuple[NumberStatistics, ...]:
        """The columns that are one number each: numbers without bins, and dates with a trend."""
        trends = tuple(column.seconds for column in self.dates if column.trend)
        return tuple(column for column in self.numbers if column.scale != "bins") + trends

    @property
    def flagged(self) -> tuple[NumberStatistics, ...]:
        """Those of `scaled` that had missing values in training."""
        return tuple(column for column in self.scaled if column.missing)

    @property
    def binned(self) -> tuple[NumberStatistics, ...]:
        return tuple(column for column in self.numbers if column.scale == "bins")

    @property
    def indexed(self) -> tuple[CategoryStatistics, ...]:
        return tuple(column for column in self.categories if column.encode in ("index", "hash"))

    def encoded(self, encode: str) -> tuple[CategoryStatistics, ...]:
        return tuple(column for column in self.categories if column.encode == encode)

    def dated(self, cyclic: bool) -> tuple[DateStatistics, ...]:
        """The dates of which a model reads parts, in that way."""
        return tuple(column for column in self.dates if column.parts and column.cyclic == cyclic)

    @property
    def embedded_width(self) -> int:
        """How many numbers come first that a network may embed."""
        return len(self.scaled) + len(self.flagged)

    @property
    def number_width(self) -> int:
        plain = [column.number_width for column in self.dates]
        plain += [column.number_width for column in self.categories]
        plain += [column.number_width for column in self.texts]
        plain += [column.number_width for column in self.sentences]
        return self.embedded_width + sum(plain)

    @property
    def category_sizes(self) -> tuple[int, ...]:
        bins = tuple(len(column.edges) + 1 + FIRST_VALUE for column in self.binned)
        return tuple(column.size for column in self.indexed) + bins

    @property
    def category_names(self) -> tuple[str, ...]:
        indexed = tuple(column.name for column in self.indexed)
        return indexed + tuple(column.name for column in self.binned)

    @property
    def task(self) -> Task:
        if self.chat is not None:
            return "generation"
        if self.pairs is not None:
            return "retrieval"
        if self.label.separator is not None:
            return "multilabel"
        return "regression" if self.label.classes is None else "classification"

    @property
    def tells_loss(self) -> bool:
        """Whether a network puts out for a row its summed loss and its hits: of a language model's
        answer over its tokens, of a pair once. How many they are over is the row's label."""
        return self.task in ("generation", "retrieval")

    @property
    def outputs(self) -> int:
        """Numbers that the model puts out for a row: one per class, or one value; where
        `tells_loss`, the row's loss and hits."""
        if self.tells_loss:
            return 2
        return 1 if self.label.classes is None else len(self.label.classes)
