"""The plays that ship, texts of the user's, what is wrong with a damaged one, and windows drawn from a text."""

import gzip
import hashlib
from pathlib import Path

import pytest
import torch

from precc.errors import DataError
from precc.models.mnist import ENVIRONMENT_VARIABLE
from precc.models.shakespeare import draw_windows, load_shakespeare

TEXT = "To be, or not to be\u2014that is the question:\n"


def decoded(vocabulary: str, *tokens: torch.Tensor) -> str:
    return "".join(vocabulary[token] for token in torch.cat(tokens).tolist())


def test_the_plays_that_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    plays = load_shakespeare()
    assert (len(plays.train_tokens), len(plays.validation_tokens)) == (932_404, 103_600)
    assert len(plays.vocabulary) == 76
    assert plays.train_tokens.dtype == torch.int64
    text = decoded(plays.vocabulary, plays.train_tokens, plays.validation_tokens)
    digest = "31291a3075769f2a902b229eb2b2b1f98ff731004754326911a5a1dfc06b4132"
    assert hashlib.sha256(text.encode()).hexdigest() == digest
    assert text.startswith("HAMLET, PRINCE OF DENMARK\n")
    assert len(text.split("\n\n\n")) == 8


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_texts_of_the_users(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (TEXT * 5).encode()
    path = tmp_path / ("shakespeare.txt.gz" if packed else "shakespeare.txt")
    path.write_bytes(gzip.compress(content) if packed else content)
    by_name = load_shakespeare(str(path))
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    for text in (by_name, load_shakespeare()):
        assert text.vocabulary == "".join(sorted(set(TEXT)))
        assert decoded(text.vocabulary, text.train_tokens, text.validation_tokens) == TEXT * 5
        assert len(text.validation_tokens) == len(TEXT * 5) // 10
        assert text.source == path


def test_missing_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"absent\.txt' does not exist"):
        load_shakespeare(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="is a folder; name the text file"):
        load_shakespeare(tmp_path)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    with pytest.raises(DataError, match=r"has neither shakespeare\.txt nor shakespeare\.txt\.gz; name the text file"):
        load_shakespeare()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected a text"),
        (gzip.compress(b""), "is empty; expected a text"),
        (gzip.compress(TEXT.encode() * 9)[:-20], "cannot be read"),
        (gzip.compress(TEXT.encode() * 9)[:-8] + bytes(8), "cannot be read: CRC check failed"),
        (TEXT.encode("utf-16"), "is not a text in UTF-8"),
        (TEXT.encode()[:21], "is not a text in UTF-8"),
    ],
    ids=["empty", "empty gzip", "cut gzip", "gzip of another sum", "utf-16", "cut character"],
)
def test_damaged_texts(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "play.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"play\.txt' {message}"):
        load_shakespeare(path)


def test_windows_come_from_everywhere_and_repeat_with_the_generator() -> None:
    tokens = torch.arange(12) * 3
    draws = [draw_windows(tokens, 5, 400, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert draws[0].shape == (400, 5)
    assert (draws[0].diff() == 3).all()
    assert set(draws[0][:, 0].tolist()) == {0, 3, 6, 9, 12, 15, 18, 21}
    assert torch.equal(draw_windows(tokens, 12, 1, torch.Generator()), tokens[None])
    with pytest.raises(DataError, match="a window of 13 tokens does not fit in a text of 12"):
        draw_windows(tokens, 13, 1, torch.Generator())
