"""What pages of documentation keep to, so that nothing on them escapes the other tests."""

import ast
import re
import subprocess

import pytest

from tests.documentation.command_lines import Wrong, check_shell
from tests.documentation.markdown_pages import (
    DIRECTIVE,
    LANGUAGES,
    NAMES,
    PAGES,
    REASONS,
    ROOT,
    blocks_in,
    blocks_of,
)

every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


@every_page
def test_every_block_says_its_language_and_why_it_is_not_run(page):
    for block in blocks_of(page):
        known = block.language in LANGUAGES or DIRECTIVE.fullmatch(block.language)
        assert known, f"{block.where}: {block.language!r} is not one of {', '.join(LANGUAGES)}"
        assert set(block.marks) <= {"needs", "files"}, f"{block.where}: {block.marks}"
        wrong = set(block.needs) - set(REASONS)
        assert not wrong, f"{block.where}: needs {wrong}; reasons are {', '.join(REASONS)}"
        hidden = block.is_directive and re.search(r"^\s*(```|~~~)", block.text, re.MULTILINE)
        assert not hidden, f"{block.where}: a block inside of a directive is seen by no test"


@every_page
def test_commands_and_listings_fit_the_width_of_the_site(page):
    if page.is_relative_to(ROOT / "docs"):
        blocks = blocks_in(page, "bash") + blocks_in(page, "text")
        lines = [line for block in blocks for line in block.text.splitlines()]
        assert [line for line in lines if len(line) > 90] == []


@every_page
def test_commands_that_are_not_run_are_real_ones(page):
    for block in blocks_in(page, "bash"):
        bash = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
        assert bash.returncode == 0, f"{block.where}: {bash.stderr}"
        if block.needs:
            try:
                check_shell(block.text)
            except Wrong as error:
                pytest.fail(f"{block.where}: {error}")


@every_page
def test_python_that_is_not_run_imports_what_there_is(page):
    for block in blocks_in(page, "python"):
        tree = ast.parse(block.text, block.where)
        if block.needs:
            imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            exec(compile(ast.Module(imports, []), block.where, "exec"), {})


def without_blocks(page):
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors_of(page):
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_to_files_and_to_headings_in_them(page):
    for target, heading in LINK.findall(without_blocks(page)):
        found = page.parent / target if target else page
        where = f"{page.relative_to(ROOT)}: {target}#{heading}"
        assert found.exists(), where
        assert not heading or heading in anchors_of(found), where


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("python eval_tools/voc07_svm.py --chekpoint FILE", "--chekpoint"),
        ("python eval_tools/voc07_svm.py --checkpoint FILE --protocol papre", "no protocol"),
        ("python eval_tools/voc07_svm.py --checkpoint FILE SVM.COST 1", "SVM.COST"),
        ("python eval_tools/evaluate_al.py --checkpoint FILE", "there is no"),
        ("python eval_tools/evaluate_all.py --checkpoint FILE --tasks coco:3x", "no protocol"),
        ("python eval_tools/model_zoo.py download moco/v9", "moco/v9"),
        (".venv/bin/python eval_tools/inspect_checkpoint.py virtex://moco/v9", "moco/v9"),
        ("python -m virtex.pretrain --config bicaptioning_R_50_L9_H2048", "L9"),
        ("python -m virtex.pretrian", "virtex.pretrian"),
        (
            "python eval_tools/detectron2_transfer.py --checkpoint A --task coco SOLVER.BASE_RL 1",
            "SOLVER.BASE_RL",
        ),
        ("torchrun --nproc-per-node 8 -m virtex.pretrain --confg X", "--confg"),
        ("X=1 python benchmarks/svm.py --imges 3", "--imges"),
        ("for t in voc07_svm nothing; do python eval_tools/$t.py --checkpoint A; done", "nothing"),
        ("cat x | python eval_tools/leaderboard.py > y", "RESULTS"),
        ("make tset", "tset"),
        ("virtex-transfer --checkpoint A", "unknown command"),
    ],
)
def test_a_wrong_command_is_caught(command, reason):
    with pytest.raises(Wrong, match=re.escape(reason)):
        check_shell(command)


@pytest.mark.parametrize(
    "command",
    [
        "make demo",
        "cat > my.yaml <<'EOF'\n_BASE_: nothing --here\nEOF\npython -m pytest -n 2",
        "for t in voc07_svm imagenet_linear; do\n python eval_tools/$t.py --checkpoint A \\\n"
        " --output-dir output/$t\ndone",
        "torchrun --nproc-per-node 8 eval_tools/voc07_svm.py --checkpoint FILE > log.txt 2>&1",
        'python eval_tools/evaluate_all.py --checkpoint A --arguments coco "--seed 1"',
    ],
)
def test_a_right_command_is_not(command):
    check_shell(command)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Text.\n\n    make test\n", "an indented block"),
        ("<!-- needs: GPUs -->\n\nText.\n\n```bash\nmake test\n```\n", "a mark before no block"),
        ("Text.\n\n<!-- needs: GPUs -->\n", "a mark before no block"),
    ],
)
def test_what_would_escape_is_an_error(tmp_path, text, reason):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=reason):
        blocks_of(tmp_path / "page.md")
