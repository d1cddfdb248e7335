"""Which tools a question finds: by whole words and their weights, whatever the letter case, and by name above all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import discovery
from agents.toolbox import ToolCard

MARKET = ToolCard("market_data", keywords=("OHLCV", "JKSE", "price"), weights={"JKSE": 3.0})
WEB = ToolCard("fetch_url", keywords=("website", "API", "ok", "page"))
NEWS = ToolCard("news_search", keywords=("news", "price"), weight=2.0)
INDEX = ToolCard("documents_index", keywords=("index",), planned=False)
TOOLS = (MARKET, WEB, NEWS, INDEX)


def found(text, tools=TOOLS):
    return [tool.name for tool in discovery.find(text, tools)]


class TestB15AKeyword:
    @pytest.mark.parametrize("text", ["the ohlcv of oil", "The OHLCV of oil", "ＯＨＬＣＶ?", "(ohlcv)"])
    def test_b15_is_found_whatever_its_letter_case(self, text):
        assert found(text) == ["market_data"]

    @pytest.mark.parametrize(
        "text", ["Analyze broker earnings in Tokyo", "rapid pagers", "priceless", "apis"]
    )
    def test_b15_is_never_found_inside_another_word(self, text):
        assert found(text) == []

    def test_b15_counts_by_its_weight_and_by_that_of_its_tool(self):
        assert found("the price") == ["news_search", "market_data"]
        assert found("the price of the JKSE") == ["market_data", "news_search"]

    def test_b15_may_be_several_words(self):
        assert found("a  Press \n release", [ToolCard("press", keywords=("press release",))]) == ["press"]

    def test_b15_stands_anywhere_where_a_script_has_no_spaces(self):
        assert found("请告诉我股票价格", [ToolCard("market", keywords=("价格",))]) == ["market"]


def test_b15_the_name_of_a_tool_wins_over_all_keywords():
    assert found("news: the price that fetch_url finds")[0] == "fetch_url"
    assert found("use FETCH_URL") == ["fetch_url"]
    assert found("prefetch_urls") == []


def test_b15_a_question_that_speaks_of_no_tool_finds_none():
    """What finds nothing is looked up in the documents, and never sent to the web for want of anything better."""
    assert found("Which lakes are the deepest?") == []
    assert discovery.first("Which lakes are the deepest?", TOOLS) is None


def test_a_tool_that_minds_call_of_their_own_accord_is_never_planned():
    assert found("index documents_index") == []


@given(st.text(), st.lists(st.text(max_size=6), max_size=4))
def test_any_text_and_any_keywords_can_be_compared(text, keywords):
    assert len(discovery.find(text, [ToolCard("t", keywords=tuple(keywords))])) <= 1
