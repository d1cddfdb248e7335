import pytest

from agents import breadth


class TestOneStatementIsWanted:
    @pytest.mark.parametrize(
        "question",
        [
            "Who wrote timeout?",
            "When does the lease expire?",
            "How many lines does head print by default?",
            "What is the capital of France?",
            "What happens to a new account without a password?",
            "Which scheme identifies versions of a distribution?",
            "Does chmod change the permissions of symbolic links?",
            "In which year was it founded?",
        ],
    )
    def test_by_who_when_how_many_which_one_and_whether(self, question):
        assert not breadth.several(question)


class TestSeveralStatementsAreWanted:
    @pytest.mark.parametrize(
        "question",
        [
            "What are the design goals of Badger?",
            "Which configuration formats does Viper support?",
            "How do I follow a growing file?",
            "Why is a lock needed?",
            "Describe the garbage collector.",
            "What is the difference between a hard link and a symbolic one?",
            "What is a lease? When does it expire?",
            "What is known about the lighthouse?",
            "lease expiry",
        ],
    )
    def test_by_a_list_a_comparison_an_explanation_and_by_what_is_no_question(self, question):
        assert breadth.several(question)
