import pytest

from asc.errors import InputError, check_choice, check_number


@pytest.mark.parametrize("value", [1, 5, 9])
def test_integers_in_range_pass(value):
    check_number("data.any", value, int, 1, 9)


@pytest.mark.parametrize("value", [0, 10, 5.0, True, None, "5", float("nan")])
def test_what_is_no_integer_in_range_gets_one_sentence(value):
    with pytest.raises(InputError) as refused:
        check_number("data.any", value, int, 1, 9)
    assert str(refused.value) == f"invalid data.any={value}: expected an integer from 1 to 9"


@pytest.mark.parametrize("value", [0, 0.5, 1, 1e9])
def test_integers_are_numbers_too(value):
    check_number("data.any", value, float, 0)


@pytest.mark.parametrize("value", [-0.1, False, None, "0.5", float("nan")])
def test_what_is_no_number_in_range_gets_one_sentence(value):
    with pytest.raises(InputError) as refused:
        check_number("data.any", value, float, 0)
    assert str(refused.value) == f"invalid data.any={value}: expected a number >= 0"


def test_a_choice_is_one_of_its_kind():
    check_choice("any", "a", ("a", None, True))
    check_choice("any", None, ("a", None, True))
    for value in ("b", 1, False, "None"):  # 1 == True, but was not meant
        with pytest.raises(InputError) as refused:
            check_choice("any", value, ("a", None, True))
        assert str(refused.value) == f"invalid any={value}: expected a or null or true"
