import json
from dataclasses import replace

import pytest

from saif_core.errors import PromptPairError
from saif_core.inputs.instruction_files import check_instruction, load_instruction
from saif_core.inputs.prompt_pairs import load_contents, load_pairs, make_pairs
from saif_core.inputs.shipped import shipped_contents, shipped_instructions
from saif_core.inputs.text_files import MAX_BYTES, MAX_ROWS
from saif_core.records.prompts import Instruction, PromptPair, Wording
from saif_core.registry import EVALUATORS

YAML = """name: to-french
evaluator: language
evaluator_parameters: {language: fr}
wordings:
  - In French, please.
  - {text: "Auf Französisch.", language: de}
"""
INSTRUCTION = Instruction("shout", "", "casing", {}, (Wording("Shout it."), Wording("LOUD.")))


def jsonl(*rows: object) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


@pytest.mark.parametrize("name", sorted(shipped_instructions()))
def test_shipped_instruction_is_complete(name: str) -> None:
    instruction = shipped_instructions()[name]
    assert instruction.name == name
    assert instruction.description
    texts = [wording.text for wording in instruction.wordings]
    assert len(set(texts)) == len(texts) >= 6
    assert sum(wording.language != "en" for wording in instruction.wordings) >= 2
    EVALUATORS.bind(instruction.evaluator, instruction.evaluator_parameters)


def test_shipped_contents_are_many_and_different() -> None:
    contents = shipped_contents()
    assert len(set(contents)) == len(contents) >= 200


def test_shipped_data_cannot_be_changed_by_a_caller() -> None:
    shipped_contents().clear()
    shipped_instructions().clear()
    assert shipped_contents()
    assert "translate-to-french" in shipped_instructions()


def test_instruction_of_a_user_is_read() -> None:
    expected = Instruction(
        "to-french",
        "",
        "language",
        {"language": "fr"},
        (Wording("In French, please."), Wording("Auf Französisch.", "de")),
    )
    assert load_instruction(YAML, source="mine.yaml") == expected
    windows = "\ufeff" + YAML.replace("\n", "\r\n")
    assert load_instruction(windows, source="mine.yaml") == expected


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("name: to-french\n", "", None, "'name' is missing"),
        ("to-french", "To French", 1, "small letters"),
        ("to-french", "x" * 65, 1, "64"),
        ("to-french", "yes", 1, "double quotes"),
        ("to-french", "[a", 2, "not valid YAML"),
        ("evaluator: language", "evaluator: taste", 2, "no evaluator called 'taste'"),
        ("evaluator: language\n", "", 2, "are given, but no evaluator"),
        ("language: fr}", "language: it}", 3, "has to be one of fr, de, es, zh, en"),
        ("language: fr}", "tongue: fr}", 3, "no parameter 'tongue'"),
        ("{language: fr}", "[fr]", 3, "mapping"),
        ("{language: fr}", "{}", 3, "needs the parameter 'language'"),
        ("evaluator_parameters", "evaluator_params", 3, "no field 'evaluator_params'"),
        ("evaluator_parameters", "name", 3, "twice"),
        ("wordings:\n", "description:\n", 4, "'description' has to be a text, but is a list"),
        ("  - In French, please.", "  - ''", 5, "text"),
        ("  - In French, please.", "  - {text: [], language: en}", 5, "text"),
        ("  - In French, please.", "  - {words: Hello}", 5, "a wording"),
        ("language: de", "language: german", 6, "'german'"),
        ("language: de", "language: no", 6, "double quotes"),
        ("In French", "\x07 French", 5, "not valid"),
        ("In French, please.", "!!python/name:os.system", 5, "not valid YAML"),
        ("In French, please.", "*other", 5, "not valid YAML"),
        ("In French, please.", "2020-99-99", None, "cannot be read"),
    ],
)
def test_faulty_instruction_gives_one_sentence_with_the_line(
    old: str, new: str, line: int | None, words: str
) -> None:
    assert old in YAML
    with pytest.raises(PromptPairError) as caught:
        load_instruction(YAML.replace(old, new, 1), source="mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: " if line is None else f"mine.yaml, line {line}: ")
    assert words in message
    assert "\n" not in message
    assert message.endswith(".")


@pytest.mark.parametrize("text", ["", "  \n", "just words", "- a\n- b", "[" * 5000, "x" * 300_000])
def test_text_that_is_no_instruction_is_refused(text: str) -> None:
    with pytest.raises(PromptPairError, match=r"^mine"):
        load_instruction(text, source="mine")


@pytest.mark.parametrize("wordings", ["wordings: []", "wordings: text", "wordings:"])
def test_instruction_needs_a_wording(wordings: str) -> None:
    text = YAML.partition("wordings:")[0] + wordings
    with pytest.raises(PromptPairError, match="line 4: 'wordings' has to be a list of 1 to"):
        load_instruction(text, source="mine.yaml")


def test_parameters_out_of_range_are_refused_when_the_file_is_read() -> None:
    text = "name: a\nevaluator: length\nevaluator_parameters:\n  max_share: 3\nwordings: [Shorten.]"
    with pytest.raises(PromptPairError, match="line 3: max_share"):
        load_instruction(text, source="mine.yaml")


def test_instruction_without_wordings_is_refused() -> None:
    with pytest.raises(PromptPairError, match=r"^mine.yaml: the field 'wordings' is missing"):
        load_instruction(YAML.partition("wordings:")[0], source="mine.yaml")


def test_aliases_are_refused_whether_they_multiply_merge_or_recur() -> None:
    levels = "".join(f"  k{n}: &k{n} [*k{n - 1}, *k{n - 1}]\n" for n in range(1, 40))
    merged = "".join(f"  - &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
    for value in (
        f"\n  k0: &k0 [x]\n{levels}  language: *k39",
        f"\n  language:\n  - &m0 {{a: b}}\n{merged}",
        "{language: &a [[*a], *a]}",
    ):
        text = YAML.replace("{language: fr}", value)
        with pytest.raises(PromptPairError, match="aliases are not read; write the text out"):
            load_instruction(text, source="mine.yaml")


@pytest.mark.parametrize(
    ("filename", "data"),
    [
        ("p.jsonl", jsonl({"content": " One. ", "instruction": "Shout."})),
        ("P.JSONL", b"\xef\xbb\xbf\r\n" + jsonl({"content": "One.", "instruction": "Shout."})),
        ("p.csv", b"content,instruction,topic\r\nOne.,Shout.,x\r\n"),
        ("p.csv", b"\xef\xbb\xbfInstruction;Content\n\nShout.;One.\n;\n"),
        ("p.csv", b"content\tinstruction\rOne.\tShout.\r"),
    ],
)
def test_content_and_instruction_are_joined_with_one_space(filename: str, data: bytes) -> None:
    assert load_pairs(data, filename=filename) == [
        PromptPair("One. Shout.", "One.", "One.", "Shout.")
    ]


def test_positive_and_negative_are_taken_as_they_are_and_repeats_kept() -> None:
    row = {"positive": "Shout\u2028it: one.", "negative": "One.", "instruction": ""}
    pair = PromptPair("Shout\u2028it: one.", "One.")
    assert load_pairs(jsonl(row, row), filename="p.jsonl") == [pair, pair]


def test_quoted_csv_cells_keep_line_breaks_and_separators() -> None:
    data = b'content,instruction\n"One,\ntwo ""three""",Shout.\n'
    assert load_pairs(data, filename="p.csv")[0].content == 'One,\ntwo "three"'


@pytest.mark.parametrize(
    ("filename", "data", "line", "words"),
    [
        ("p.xlsx", b"x", None, "use .jsonl or .csv"),
        ("p.csv", b"", None, "empty"),
        ("p.csv", b"\xef\xbb\xbf \r\n", None, "empty"),
        ("p.csv", b"content,instruction\n", None, "no rows"),
        ("p.csv", b"content\nOne.\n", 2, "'instruction' is missing"),
        ("p.csv", b"a,b\nOne.,Two.\n", 2, "no columns 'content'"),
        ("p.csv", b"content,instruction\nOne.\n", 2, "'instruction' is missing"),
        ("p.csv", b"content,instruction\nOne., \n", 2, "'instruction' is empty"),
        ("p.csv", b"content,instruction\n\nOne.,a,b\n", 3, "3 cells"),
        ("p.csv", b"content,Content\na,b\n", 1, "two columns called 'content'"),
        ("p.csv", b'content,instruction\n"a\nb",c\n\n"d\ne",\n', 5, "'instruction' is empty"),
        ("p.csv", b'content,instruction\na,b\n"never closed,\nc,d\n', 3, "double quotes"),
        ("p.csv", b'content,instruction\n"a"x,b\n', 2, "double quotes"),
        ("p.csv", b"content,instruction\na,b\nc\xff,d\n", 3, "not UTF-8"),
        ("p.csv", b"content,instruction\na\0,b\n", 2, "not valid"),
        ("p.csv", "content,instruction\na,b\n".encode("utf-16"), 1, "not UTF-8"),
        ("p.csv", b"content,instruction\n" + b"x" * 200_000 + b",b\n", 2, "not CSV"),
        ("p.jsonl", b'\n{"content": "a"\n', 2, "not JSON"),
        ("p.jsonl", b"[" * 100_000, 1, "not JSON"),
        ("p.jsonl", b'"text"', 1, "not a JSON object"),
        ("p.jsonl", b'{"content": "a", "instruction": 3}', 1, "'instruction' has to be a text"),
        ("p.jsonl", b'{"content": "a", "instruction": null}', 1, "has to be a text"),
        ("p.jsonl", b'{"content": "\\ud800", "instruction": "b"}', 1, "not valid"),
        ("p.jsonl", b'{"positive": "a"}', 1, "'negative' is missing"),
        ("p.jsonl", b'{"positive": "a ", "negative": "a"}', 1, "the same text"),
        ("p.jsonl", b'{"content": "a\r\n', 1, "not JSON"),
    ],
)
def test_faulty_pairs_file_gives_one_sentence_with_the_line(
    filename: str, data: bytes, line: int | None, words: str
) -> None:
    with pytest.raises(PromptPairError) as caught:
        load_pairs(data, filename=f"/home/someone/{filename}")
    message = str(caught.value)
    assert message.startswith(f"{filename}: " if line is None else f"{filename}, line {line}: ")
    assert words in message
    assert "\n" not in message
    assert message.endswith(".")


def test_files_that_are_too_large_are_refused() -> None:
    with pytest.raises(PromptPairError, match="5 MB"):
        load_pairs(b"x" * (MAX_BYTES + 1), filename="p.csv")
    with pytest.raises(PromptPairError, match=r"line 20001: only 20,000 rows"):
        load_contents(b"a\n" * (MAX_ROWS + 1), filename="c.txt")
    rows = b"text\n" + b"a\n" * MAX_ROWS
    assert len(load_contents(rows, filename="c.csv")) == MAX_ROWS
    with pytest.raises(PromptPairError, match="line 20002: only 20,000 rows"):
        load_contents(rows + b"a\n", filename="c.csv")


@pytest.mark.parametrize(
    ("filename", "data"),
    [
        ("c.txt", b"\xef\xbb\xbf One. \r\n\r\nTwo, too.\r\nOne."),
        ("c.csv", b'text\nOne.\n"Two, too."\nOne.\n'),
        ("c.csv", b'topic,content\nx,One.\ny,"Two, too."\nz,One.\n'),
        ("c.jsonl", jsonl({"text": "One."}, {"content": "Two, too."}, {"text": "One.", "n": 1})),
    ],
)
def test_contents_are_read_in_order_with_repeats(filename: str, data: bytes) -> None:
    assert load_contents(data, filename=filename) == ["One.", "Two, too.", "One."]


@pytest.mark.parametrize(
    ("filename", "data", "words"),
    [
        ("c.txt", b"a\n\nb\xe9\n", "line 3: the text is not UTF-8"),
        ("c.txt", b"a\n\0\n", "line 2: the text holds a character"),
        ("c.csv", b"words\na\n", "line 2: the column 'text' is missing"),
        ("c.pdf", b"a", "use .jsonl or .csv"),
    ],
)
def test_faulty_contents_are_refused(filename: str, data: bytes, words: str) -> None:
    with pytest.raises(PromptPairError, match=words):
        load_contents(data, filename=filename)


def test_pairs_are_made_content_by_content() -> None:
    pairs = make_pairs(INSTRUCTION, [" One.", "Two.", "Three."], n_contents=2)
    assert [pair.positive for pair in pairs] == [
        "One. Shout it.",
        "One. LOUD.",
        "Two. Shout it.",
        "Two. LOUD.",
    ]
    assert [pair.negative for pair in pairs] == ["One.", "One.", "Two.", "Two."]


def test_instruction_can_stand_before_and_in_other_wordings() -> None:
    (pair,) = make_pairs(INSTRUCTION, ["One."], position="before", wordings=[" Louder! "])
    assert pair == PromptPair("Louder! One.", "One.", "One.", "Louder!")


@pytest.mark.parametrize(
    ("contents", "options", "words"),
    [
        ([], {}, "no content"),
        (["a"], {"n_contents": 2}, "2 contents were asked for, but there are 1"),
        (["a"], {"n_contents": 0}, "0 contents"),
        (["a", " "], {}, "content number 2 is blank"),
        (["a"], {"wordings": []}, "no wording"),
        (["a"], {"wordings": ["b", ""]}, "wording number 2 is blank"),
        (["a"], {"position": "inside"}, "'inside'"),
    ],
)
def test_pairs_that_cannot_be_made_are_refused(
    contents: list[str], options: dict[str, object], words: str
) -> None:
    with pytest.raises(PromptPairError, match=words):
        make_pairs(INSTRUCTION, contents, **options)  # type: ignore[arg-type]


def test_instruction_without_wordings_makes_no_pairs() -> None:
    with pytest.raises(PromptPairError, match="no wording"):
        make_pairs(replace(INSTRUCTION, wordings=()), ["One."])


@pytest.mark.parametrize("written", ["", "evaluator: ''\n", "evaluator:\n"])
def test_an_instruction_may_have_nobody_who_judges_it(written: str) -> None:
    pirate = load_instruction(f"name: pirate\n{written}wordings: [Arrr.]", source="pirate.yaml")
    assert pirate.evaluator == ""
    assert pirate.evaluator_parameters == {}


def test_an_instruction_made_elsewhere_is_checked_as_a_file_is() -> None:
    made = Instruction("pirate", "", "", {}, (Wording("Answer as a pirate."),))
    check_instruction(made, source="what you typed")
    with pytest.raises(PromptPairError, match="^what you typed"):
        check_instruction(replace(made, wordings=()), source="what you typed")
    with pytest.raises(PromptPairError, match="needs the parameter 'language'"):
        check_instruction(replace(made, evaluator="language"), source="what you typed")
