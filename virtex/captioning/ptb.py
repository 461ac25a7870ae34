"""Penn Treebank tokenizer of COCO's caption evaluation, without Java.

The reference is Stanford CoreNLP 3.4.1's ``PTBTokenizer -preserveLines -lowerCase``, after which
COCO drops punctuation tokens (Chen et al. 2015, "Microsoft COCO Captions: Data Collection and
Evaluation Server"). The rules below were inferred from its output: those of the Treebank (Marcus et
al. 1993, "Building a Large Annotated Corpus of English"), and its peculiarities as far as captions
contain them. Spelling is kept: British words stay British.
"""

# ruff: noqa: RUF001 - tokenization depends on look-alike quotation marks and hyphens

from __future__ import annotations

import re

# ---- Words with special rules

# The period belongs to these anywhere,
ABBREVIATIONS = """
    adj adm adv ala al alex apr ariz assn assoc asst atty aug ave bhd bldg blvd brig bros calif
    capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs ens esq est etc
    ext feb fla fri ft ga gen gov govs hon inc ind intl jan jos jr jul jun kan kans ky lieut lt ltd
    maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct
    okla penn pfc ph plc pres prof profs pte pty pvt rd rep reps rev rt sen sens sep sept seq sfc
    sgt spc sq sr st ste supt sys tel tenn thu thurs treas tue tues univ va vs vt wed wis wisc wm
    wyo
"""
# to these if capitalized, and to these before a number.
CAPITALIZED = "ark az del ill la mass miss ore pa tex wash"
BEFORE_NUMBERS = "art ca figs fig nos no op pp prop"
# A single letter also keeps its period, except before these: "plan b. The".
SENTENCE_STARTS = """
    a about according additionally after an as at but earlier he her here however if in it last many
    more now once one other our she since so some such that the their then there these they this we
    what when while yet you mr. ms.
"""

WITH_APOSTROPHE = "c'mon dunkin' e'er ev'ry li'l nat'l nor'easter ol' s'mores somethin'"
IN_TWO = "can_not gim_me gon_na got_ta lem_me wan_na"

FILE_ENDINGS = """
    bat bmp class cgi cpp c docx doc dll exe gif gz html htm h java jar jpeg jpg mov mp3 pdf php pl
    png ppt ps py sql tar txt wav xml x zip
"""

# ---- Patterns


def any_case(pattern: str) -> str:
    return f"(?i:{pattern})"


def any_of(words: str) -> str:
    return any_case("|".join(words.split()).replace("'", "['’]"))


def capitalized(words: str) -> str:
    """Match any of the words if capitalized, ignoring the case of the rest."""
    rest = [(word[0].upper(), any_case(re.escape(word[1:]))) for word in words.split()]
    return f"(?:{'|'.join(map(''.join, rest))})"


LETTERS = "A-Za-zªµºÀ-ÖØ-öø-\u1fff\u2c00-\u2fff\u3041-\ud7ff\uf900-\ufdff"  # with combining accents
# a letter; a letter or digit; the latter in ASCII
L, W, A = f"[{LETTERS}]", f"[{LETTERS}0-9]", "[A-Za-z0-9]"
CLITIC = any_case(f"(?:[dms]|ll|re|ve)(?!{L})")  # of I'm, we've
INNER = f"(?:['’](?!{CLITIC})|[‘`])"  # an apostrophe within a word
WORD = f"(?:[dlnoDLNO]{INNER}(?={L}{{2}}))?{W}+"  # clock, o'clock
INITIALS = rf"(?:{L}\.){{2,}}"  # u.s., a.k.a.
PART = f"-(?:{INITIALS}|{A}+)"  # of a word with hyphens
CHOICE = f"{A}+(?:-[A-Za-z]+){{0,2}}"  # of a word with slashes
STOP = r"(?:\.(?=[,:;]))?"  # belongs to the preceding word
GAP = r"[- \xa0]"  # within numbers
# of addresses
LABEL, LINK, LINK_END = r"[^\s\"<>|.!?(){},]", r"[^\s\"<>|()]", r"[^\s\"<>|.!?(){},-]"
MAILBOX, HOST = r"[^\s\"<>|(){}]{0,63}", r"[^\s\"<>|().{}]+"
# characters that extend one of these words to a longer token
LONGER = rf"[-_/@!?.]?{L}|[-_/@]?[0-9]|\.[,:;]|['’]{CLITIC}|,[A-Za-z0-9.,]*-[A-Za-z0-9]"
FIRST_OF_TWO = "|".join(
    f"{first}(?={second}(?!{LONGER}))"
    for first, second in (word.split("_") for word in IN_TWO.split())
)

# Tokens that COCO drops need a pattern only if another token could start inside of them.
DROPPED = r"-{2,4}(?!-)|\.{3,}|''|’’|[‘`]{2}"

# Alternatives for a token, tried in order, so longer ones come first.
TOKENS = [
    f"(?=[CGLWcglw]){any_case(FIRST_OF_TWO)}",  # the lookahead is for speed
    r"[A-Za-z]+(?=,?(?:\s|$))",  # most words, with nothing behind them that could extend them
    # http://a.org/b, www.a.org, a.com/b, a@b.org, @somebody
    any_case(rf"https?://{LINK}+\.{LINK}*{LINK_END}"),
    any_case(rf"www\.(?:{LABEL}+\.)+[a-z]{{2,4}}(?:/{LINK}+{LINK_END}|(?![-.]?{W}){STOP})"),
    rf"{W}+(?:\.{W}+)*\.(?:com|net|org|edu)/{LINK}+{LINK_END}",
    rf"<?{W}{MAILBOX}@{HOST}(?:\.{HOST})*>?",
    "@[A-Za-z_][A-Za-z_0-9]*",
    # :-) -_- <br>
    r"[<>]?[:;=][-o*']?[()DdPp@O{|\[\]\\](?![A-Za-z0-9])|[-^=<>]_[-^=<>x]",
    r"<!--.*?-->|<[A-Za-z][A-Za-z0-9]*(?:\s[^<>]*)?/?>|</[A-Za-z][A-Za-z0-9]*>",
    # (555) 555-1234; 1 1/2
    r"(?=\+|[0-9-]*[ \xa0(])"
    rf"(?:\+?[0-9]{{2,4}}{GAP}(?:[0-9]{{2,4}}{GAP})?|\([0-9]{{2,3}}\)[ \xa0]?)"
    rf"[0-9]{{3,4}}{GAP}?[0-9]{{3,5}}",
    rf"[0-9]{{1,4}}{GAP}[0-9]{{1,4}}/[0-9]{{1,4}}",
    # 1/2-2014; and/or, 24/7, 1/2/2014
    "[0-9]{1,2}/[0-9]{1,2}-[0-9]{2,4}",
    rf"{CHOICE}/{CHOICE}(?:/{CHOICE})?",
    # 1,000-mile, mr.-x; mother-in-law, non-u.s., x_y
    rf"{A}+(?:[.,]{A}*)+(?:{PART})+{STOP}",
    rf"{A}+(?:-{A}+)*-{INITIALS}(?:{PART})*{STOP}",
    rf"{WORD}(?:[-_‐‑]{WORD})+{STOP}",
    # could, before n't; n't; 've
    any_case(f"{L}+?(?=n['’‘`]t)|n['’‘`]t(?!{L})"),
    rf"'{CLITIC}|’{any_case('[dms]|ll|re|ve')}",
    # 'em, 'n', '90s, '05; 't, before is and was; c'mon, ma'am, T'ang; y', before all
    any_case(rf"['’](?:em|till?|cause|[2-9]0s|[0-9]{{2}}(?=\s|$)|n['’]|n(?!{W}))|’n"),
    any_case("'t(?=is|was)"),
    any_of(WITH_APOSTROPHE),
    f"[A-Za-z]+[AEIOUYaeiouy]{INNER}[aeiouA-Z]{L}*",
    f"[A-CE-HJKMP-XZ]{INNER}{L}{{2,}}",
    f"[DdJjLl]['’](?!{CLITIC})(?!{L}{{2}})|[jYy]['’](?={L})",
    # AT&T, US$, c++
    rf"[A-Z]+(?:&[A-Z]+)+{STOP}|[A-Z]+\$",
    any_case(r"c\+\+|[cf]#"),
    # u.s.; page.html, 8:25, 1,000, .5, -5, street.The
    any_case(r"ph\.d\.|cont['’]d\."),
    f"{INITIALS}(?!{L})",
    rf"{W}+(?:\.{W}+)*\.{any_of(FILE_ENDINGS)}(?!{W}|[.!?]{L}){STOP}",
    r"[-+]?[0-9]*(?:[.,:][0-9]+)+|[-+][0-9]+",
    rf"{L}{W}*(?:[.!?]{L}{W}*)+{STOP}",
    # p., mr., no. 5
    rf"[A-Za-z]\.(?!\s+{capitalized(SENTENCE_STARTS)}(?:\s|$))",
    rf"{any_of(ABBREVIATIONS)}\.|{capitalized(CAPITALIZED)}\.",
    rf"{any_of(BEFORE_NUMBERS)}\.(?=\s?[0-9])",
    # other words; symbols
    f"{WORD}{STOP}",
    "#[A-Za-z]+",
    r"[“”‘’`]{2}|[!?]{2,}|-{5,}|\*+|_+|#+|@+|<<|>>|[$%&()+/<=>\[\\\]^{|}~]",
    "[¡-©¬®-´¶-¹¼-¿×÷‖‗‚„-‣‰-‸※‾-⁂⁰-₎€℀-⅏⅓-⅞←-⯿、。]",
]
FIND = re.compile(f"{DROPPED}|({'|'.join(TOKENS)})").findall

# ---- Rewriting

# A tab separates like a space, and no token contains one.
ENTITIES = {
    "amp": "&", "apos": "'", "gt": "\t>\t", "lt": "\t<\t", "quot": '"',
    "mdash": "\t", "nbsp": "\t", "ndash": "\t",
}  # fmt: skip
ENTITY = re.compile(f"&({'|'.join(ENTITIES)});", re.IGNORECASE)
# soft hyphens; three characters by their codes in Windows-1252
REPLACED = str.maketrans({"\xad": "", "\x80": "€", "\x91": "‘", "\x92": "’"})
SIGNS = {
    "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "¢": "cents", "£": "#", "€": "$", "¤": "$",
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
}  # fmt: skip
WITHIN = str.maketrans({"(": "-lrb-", ")": "-rrb-", " ": "\xa0"})
CURLY = re.compile("[“”‘’`]{2}|n[’‘]t|’(?:[dms]|ll|re|ve)")
STRAIGHT = str.maketrans({"“": "``", "”": "''", "‘": "`", "’": "'"})


def tokenize(caption: str) -> list[str]:
    """Tokenize a caption: lower case, without punctuation.

    Brackets become ``-lrb-`` etc. and are kept as in COCO's evaluation, whose list of punctuation
    has them in upper case. No token contains a space: 1 1/2 has a no-break space.

    CoreNLP tokenizes a file with one caption per line. For a single letter with a period at the end
    of a caption, it looks at the first word of the next one to decide between one token and two.
    Here captions are independent, and it is one token.
    """
    caption = caption.replace("\n", " ")
    if not caption.isascii():
        caption = caption.translate(REPLACED)
    if "&" in caption:
        caption = ENTITY.sub(lambda entity: ENTITIES[entity[1].lower()], caption)
    found = filter(None, FIND(caption))
    return [token.lower() if token.isalpha() else rewrite(token) for token in found]


def rewrite(token: str) -> str:
    token = SIGNS.get(token, token.lower().translate(WITHIN))
    return token.translate(STRAIGHT) if CURLY.fullmatch(token) else token
