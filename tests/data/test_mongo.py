"""MongoDB's ranges and texts, by mongomock's collections: no server is in any package.

What is tried here is which documents are asked for and what becomes of them; the protocol, logins
and real failures are not.
"""

from __future__ import annotations

from datetime import UTC, datetime

import mongomock
import pytest
from databases import read

from ray_pipeline.data import collect, mongo
from ray_pipeline.errors import DataError
from ray_pipeline.job import Data, Source

SOURCE = "mongodb://mongo.test/shop"


@pytest.fixture
def people():
    with mongomock.patch(servers=(("mongo.test", 27017),)):
        import pymongo

        yield pymongo.MongoClient(SOURCE).shop.people


def test_each_document_once_in_ranges(people, monkeypatch):
    monkeypatch.setattr(mongo, "BATCH", 30)
    people.insert_many([{"_id": 3 * i - 500, "n": i} for i in range(500)])
    table, pieces = read(Source(url=SOURCE, table="people", partitions=7))
    assert [piece.count for piece in pieces] == [72] * 6 + [68]
    assert table["n"].to_pylist() == [str(i) for i in range(500)]
    assert table["_row"].to_pylist() == list(range(1, 501))


def test_values_as_texts_and_fields_that_come_later(people):
    people.insert_one({"_id": 1, "a": True, "at": datetime(2020, 2, 29, 1, 2, 3)})
    people.insert_one({"_id": 2, "b": 1.5, "in": {"x": [1, None]}, "a": None, "c": "é"})
    table, _ = read(Source(url=SOURCE, table="people"))
    assert table.drop_columns(["_error", "_raw"]).to_pylist() == [
        {"_id": "1", "a": "true", "at": "2020-02-29T01:02:03", "b": None, "in": None, "c": None}
        | {"_row": 1},
        {"_id": "2", "a": None, "at": None, "b": "1.5", "in": '{"x": [1, null]}', "c": "é"}
        | {"_row": 2},
    ]


def test_documents_that_go_while_they_are_read_are_an_error(people):
    people.insert_many([{"_id": i, "n": i} for i in range(100)])
    data = Data(source=Source(url=SOURCE, table="people", partitions=4), label="n")
    pieces = mongo.pieces(data.source, data)
    people.delete_one({"_id": 30})
    assert sum(len(table) for table in mongo.tables(pieces[0], data, ["n"])) == 25
    with pytest.raises(DataError, match="24 documents where there were 25"):
        list(mongo.tables(pieces[1], data, ["n"]))


def test_the_fingerprint_sees_new_documents_and_a_named_field(people):
    first, later = datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 2, tzinfo=UTC)
    people.insert_many([{"_id": i, "n": i, "changed": first} for i in "ab"])
    plain = Data(source=Source(url=SOURCE, table="people"), label="n")
    keyed = Data(source=Source(url=SOURCE, table="people", key="changed"), label="n")
    before = collect.fingerprint(plain), collect.fingerprint(keyed)
    people.update_one({"_id": "a"}, {"$set": {"n": 9, "changed": later}})
    assert collect.fingerprint(plain) == before[0]
    assert collect.fingerprint(keyed) != before[1]
    people.insert_one({"_id": "c"})
    assert collect.fingerprint(plain) != before[0]


def test_what_is_said_of_a_collection_that_is_not_there(people):
    with pytest.raises(DataError, match="empty or not there"):
        read(Source(url=SOURCE, table="peeple"))
    with pytest.raises(DataError, match="does not say what to read"):
        read(Source(url="mongodb://mongo.test", table="people"))
