from prompt_cache_key.rejections.learned import MAX_ENDPOINTS, MAX_WARNINGS, Rejections

KEY, OPTIONS = "prompt_cache_key", "prompt_cache_options"
PLACE = ("10.0.0.1", 443, "/v1/messages")
END = (*PLACE, "m")


def end(number: int) -> tuple[object, ...]:
    return (*PLACE, f"m{number}")


def test_an_endpoint_that_rejects_a_field_is_remembered_with_its_model() -> None:
    rejections = Rejections()
    assert not rejections.rejects(KEY, END)
    rejections.learn(KEY, END, PLACE)
    assert rejections.rejects(KEY, END)
    assert not rejections.rejects(OPTIONS, END)
    assert not rejections.rejects(KEY, (*PLACE, "another"))
    assert not rejections.rejects(KEY, ("10.0.0.2", *END[1:]))


def test_a_rejection_is_a_warning_once_for_each_field_and_place() -> None:
    rejections = Rejections()
    assert rejections.learn(KEY, END, PLACE)
    assert not rejections.learn(KEY, END, PLACE)
    assert not rejections.learn(KEY, (*PLACE, "another"), PLACE)
    assert rejections.learn(OPTIONS, END, PLACE)
    elsewhere = ("10.0.0.2", *PLACE[1:])
    assert rejections.learn(KEY, (*elsewhere, "m"), elsewhere)


def test_a_flood_of_model_names_neither_fills_the_memory_nor_the_log() -> None:
    rejections = Rejections()
    warnings = 0
    for number in range(3 * MAX_ENDPOINTS):
        warnings += rejections.learn(KEY, end(number), PLACE)
        warnings += sum(rejections.count_400(end(number), PLACE) for _ in range(3))
    assert warnings == 2
    known = [number for number in range(3 * MAX_ENDPOINTS) if rejections.rejects(KEY, end(number))]
    assert known == list(range(2 * MAX_ENDPOINTS, 3 * MAX_ENDPOINTS))


def test_an_endpoint_in_use_is_not_evicted() -> None:
    rejections = Rejections()
    rejections.learn(KEY, END, PLACE)
    rejections.accepted(END)
    for number in range(3 * MAX_ENDPOINTS):
        rejections.learn(KEY, end(number), PLACE)
        assert rejections.rejects(KEY, END)


def test_warnings_are_bounded_however_many_places_there_are() -> None:
    rejections = Rejections()
    places = [(f"10.0.0.{number}", 443, "/") for number in range(3 * MAX_WARNINGS)]
    assert sum(rejections.learn(KEY, (*place, "m"), place) for place in places) == MAX_WARNINGS
    assert rejections.rejects(KEY, (*places[-1], "m"))


def test_the_third_400_in_a_row_is_a_warning_once() -> None:
    rejections = Rejections()
    counted = [rejections.count_400(END, PLACE) for _ in range(7)]
    assert counted == [False, False, True, False, False, False, False]


def test_400s_are_counted_for_each_endpoint_and_warned_about_for_each_place() -> None:
    rejections = Rejections()
    assert not any(rejections.count_400(end(number), PLACE) for number in range(3))
    assert [rejections.count_400(end(0), PLACE) for _ in range(2)] == [False, True]
    assert [rejections.count_400(end(1), PLACE) for _ in range(2)] == [False, False]
    elsewhere = ("10.0.0.2", *PLACE[1:])
    counted = [rejections.count_400((*elsewhere, "m"), elsewhere) for _ in range(3)]
    assert counted == [False, False, True]


def test_an_endpoint_that_ever_accepted_a_key_is_not_warned_about() -> None:
    rejections = Rejections()
    rejections.accepted(END)
    assert not any(rejections.count_400(END, PLACE) for _ in range(9))
    for _ in range(2):
        rejections.count_400(end(1), PLACE)
    rejections.accepted(end(1))
    assert not any(rejections.count_400(end(1), PLACE) for _ in range(9))


def test_a_rejection_does_not_hide_the_warning_about_400s() -> None:
    rejections = Rejections()
    assert rejections.learn(KEY, END, PLACE)
    assert [rejections.count_400(end(1), PLACE) for _ in range(3)] == [False, False, True]


def test_endpoints_of_any_hashable_kind() -> None:
    rejections = Rejections()
    rejections.learn(KEY, -1, None)
    assert rejections.rejects(KEY, -1)
    rejections.accepted("end")
    assert not any(rejections.count_400("end", None) for _ in range(3))
