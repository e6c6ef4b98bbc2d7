"""Put the example files into the page on extending: each code block is the file that it names.

python docs/make_extending.py
"""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "extending.md"
_BLOCK = re.compile(r"(<!-- (extending/\w+\.py) -->\n)```python\n.*?```\n", re.DOTALL)


def with_files(page: str) -> str:
    """The page with each file's present text."""
    return _BLOCK.sub(
        lambda block: f"{block[1]}```python\n{(HERE / block[2]).read_text()}```\n", page
    )


if __name__ == "__main__":
    PAGE.write_text(with_files(PAGE.read_text()))
