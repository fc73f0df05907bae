import json

import pytest
from prompt_cache_key.project import MAX_LENGTH, project_of


@pytest.mark.parametrize(
    ("text", "project"),
    [
        ("Primary working directory: /home/me/shop\n", "shop"),
        ("Working directory: /home/me/shop", "shop"),
        (" - Primary working directory: C:\\Users\\me\\my shop\n", "my shop"),
        ("Working directory: /home/me/shop/ \n", "shop"),
        ("Working directory: /home/me/lädchen\n", "lädchen"),
        ("Working directory: /" + "x" * 900 + "\n", "x" * MAX_LENGTH),
        ("Working directory: /", ""),
        ("Working directory: \n", ""),
        ("Another directory: /home/me/shop", ""),
    ],
)
@pytest.mark.parametrize("is_ascii", [True, False])
def test_project_is_the_last_folder_of_the_working_directory(
    text: str, project: str, is_ascii: bool
) -> None:
    assert project_of(json.dumps({"system": text}, ensure_ascii=is_ascii).encode()) == project


def test_directory_in_bytes_that_are_no_text_names_no_project() -> None:
    assert project_of(b'{"system":"Working directory: /home/\xff"}') == ""
