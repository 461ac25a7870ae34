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


# The letters of CoreNLP, with combining accents and the digits of other scripts, in hexadecimal;
# found by tokenizing every character. Ranges contain characters that Unicode does not define.
OTHER_LETTERS = """
    aa b5 ba c0-d6 d8-f6 f8-37d 384-386 388-481 483-487 48a-527 531-55f 561-587 591-5bd 5bf 5c1-5c2
    5c4-5c5 5c7-5ea 5f0-5f2 615-61a 620-65e 660-669 66e-6d3 6d5-6ff 70f-7f5 7fa 800-815 81a 824 828
    840-858 8a0 8a2-8ac 900-939 93c-94e 950-955 958-963 966-96f 971-977 979-97f 981-9f1 a01-a4d
    a59-a6f a72-a74 a81-ae1 ae6-aef b05-b39 b3d b5c-b61 b66-b6f b71 b82-bd0 be6-bef c01-c03 c05-c33
    c35-c39 c3d-c59 c60-c61 c66-c6f c85-cb9 cbd cde-ce1 ce6-cf2 d05-d3a d3d-d48 d4e d60-d61 d66-d6f
    d7a-d7f d85-dc6 e01-e3a e40-e4e e50-e59 e81-e84 e87-e88 e8a e8d e94-e97 e99-e9f ea1-ea7 eaa-eab
    ead-f00 f20-f29 f40-f6c f88-f8c 1000-102a 103f-1049 1050-1055 105a-105d 1061 1065-1066 106e-1070
    1075-1081 108e 1090-1099 10a0-10fa 10fc-135a 1380-138f 13a0-13f4 1401-166c 166f-167f 1681-169a
    16a0-16ea 1700-170c 170e-1711 1720-1731 1740-1751 1760-1770 1780-17b3 17d7 17dc 17e0-17e9
    1810-1877 1880-18a8 18aa-191c 1946-19ab 19c1-19c7 19d0-19d9 1a00-1a16 1a20-1a54 1a80-1a99 1aa7
    1b05-1b33 1b45-1b4b 1b50-1b59 1b83-1ba0 1bae-1be5 1c00-1c23 1c40-1c7d 1ce9-1cec 1cee-1cf1
    1cf5-1cf6 1d00-1dbf 1e00-1fbc 1fbe 1fc2-1fcc 1fd0-1fdb 1fe0-1fec 1ff2-1ffc 2071 207f 2090-209c
    2102 2107 210a-2113 2115 2119-211d 2124 2126 2128 212a-212d 212f-2139 213c-213f 2145-2149 214e
    2183-2184 2c00-2c2e 2c30-2c5e 2c60-2ce4 2ceb-2cee 2cf2-2cf3 2d00-2d6f 2d80-2dde 2e2f 3005-3006
    3031-3035 303b-303c 3041-3096 309d-309f 30a1-30fa 30fc-312d 3131-318e 31a0-31ba 31f0-31ff
    3400-4db5 4e00-9fcc a000-a48c a4d0-a4fd a500-a60c a610-a66e a67f-a697 a6a0-a6e5 a717-a71f
    a722-a788 a78b-a78e a790-a793 a7a0-a7aa a7f8-a801 a803-a805 a807-a80a a80c-a822 a840-a873
    a882-a8b3 a8d0-a8d9 a8f2-a8f7 a8fb a900-a925 a930-a946 a960-a97c a984-a9b2 a9cf-a9d9 aa00-aa28
    aa40-aa42 aa44-aa4b aa50-aa59 aa60-aa76 aa7a aa80-aaaf aab1 aab5-aab6 aab9-aabd aac0 aac2-aadd
    aae0-aaea aaf2-aaf4 ab01-ab2e abc0-abe2 abf0-d7fb f900-fb1d fb1f-fb28 fb2a-fbb1 fbd3-fd3d
    fd50-fdc7 fdf0-fdfb fe70-fefc ff10-ff19 ff21-ff3a ff41-ff5a ff66-ffdc
"""
LETTERS = "A-Za-z" + re.sub("[0-9a-f]+", lambda code: chr(int(code[0], 16)), OTHER_LETTERS)
LETTERS = "".join(LETTERS.split())
DIGITS = "0-9" + "".join(c for c in map(chr, range(0x80, 0x10000)) if c.isdecimal())
# a letter; a letter or digit; the latter in ASCII; a digit
L, W, A, D = rf"(?:(?!\d)[{LETTERS}])", f"[{LETTERS}0-9]", "[A-Za-z0-9]", f"[{DIGITS}]"
CLITIC = any_case("(?:[dms]|ll|re|ve)(?![A-Za-z])")  # of I'm, we've
INNER = f"(?:['’](?!{CLITIC})|[‘`‛])"  # an apostrophe within a word
PREFIX = f"(?:[dlnoDLNO]{INNER}(?={L}{{2}}))?"  # of o'clock
UNACCENTED = rf"(?:(?=\w){W})+"  # without combining accents
WORD = f"{PREFIX}(?:{L}{W}*|{UNACCENTED})"
INITIALS = r"(?:[A-Za-z]\.){2,}"  # u.s., a.k.a.
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
DROPPED = r"-{2,4}(?!-)|\.{3,}|''|[’›]{2}|[‘`‹‛]{2}"

# Alternatives for a token, tried in order, so longer ones come first.
TOKENS = [
    f"(?=[CGLWcglw]){any_case(FIRST_OF_TWO)}",  # the lookahead is for speed
    r"[A-Za-z]+(?=,?(?:\s|$))",  # most words, with nothing behind them that could extend them
    # http://a.org/b, www.a.org, a.com/b, a@b.org, @somebody
    any_case(rf"https?://{LINK}+\.{LINK}*{LINK_END}"),
    any_case(rf"www\.(?:{LABEL}+\.)+[a-z]{{2,4}}(?:/{LINK}+{LINK_END}|(?![-.]?{W}){STOP})"),
    rf"{W}+(?:\.{W}+)*\.(?:com|net|org|edu)/{LINK}+{LINK_END}",
    rf"<?{A}{MAILBOX}@{HOST}(?:\.{HOST})*>?",
    "@[A-Za-z_][A-Za-z_0-9]*",
    # :-) -_- <br>
    r"[<>]?[:;=][-o*']?[()DdPp@O{|\[\]\\](?![A-Za-z0-9])|[-^=<>]_[-^=<>x]",
    r"<!--.*?-->|<[A-Za-z][A-Za-z0-9]*(?:\s[^<>]*)?/?>|</[A-Za-z][A-Za-z0-9]*>",
    # (555) 555-1234; 1 1/2
    r"(?=\+|[0-9-]*[ \xa0(])"
    rf"(?:\+?[0-9]{{2,4}}{GAP}(?:[0-9]{{2,4}}{GAP})?|\([0-9]{{2,3}}\)[ \xa0]?)"
    rf"[0-9]{{3,4}}{GAP}?[0-9]{{3,5}}",
    # 1/2-2014; and/or, 24/7, 1/2/2014
    f"{D}{{1,2}}/{D}{{1,2}}-{D}{{2,4}}",
    rf"{CHOICE}/{CHOICE}(?:/{CHOICE})?",
    rf"(?:{D}{{1,4}}{GAP})?{D}{{1,4}}[/⁄]{D}{{1,4}}",
    # 1,000-mile, mr.-x; mother-in-law, non-u.s., x_y
    rf"{A}+(?:[.,]{A}*)+(?:{PART})+{STOP}",
    rf"{A}+(?:-{A}+)*-{INITIALS}(?:{PART})*{STOP}",
    rf"{PREFIX}{UNACCENTED}(?:[-_֊‐‑]{PREFIX}{UNACCENTED})+{STOP}",
    # could, before n't; n't; 've
    any_case(f"[A-Za-z]+?(?=n['’‘`]t)|n['’‘`]t(?!{L})"),
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
    rf"[-+]?{D}*(?:[.,:٫٬]{D}+)+|[-+]{D}+",
    rf"{L}{W}*(?:[.!?]{L}{W}*)+{STOP}",
    # p., mr., no. 5
    rf"[A-Za-z]\.(?!\s+{capitalized(SENTENCE_STARTS)}(?:\s|$))",
    rf"{any_of(ABBREVIATIONS)}\.|{capitalized(CAPITALIZED)}\.",
    rf"{any_of(BEFORE_NUMBERS)}\.(?=\s?[0-9])",
    # other words; symbols
    f"{WORD}{STOP}",
    "#[A-Za-z]+",
    "[`‘-‟‹›«»]{2}|[⁺⁻₊₋]?(?:[²³¹⁰⁴-⁹]+|[₀-₉]+)",
    r"[!?]{2,}|-{5,}|\*+|_+|#+|@+|<<|>>|[$%&()+/<=>\[\\\]^{|}~]",
    "[¡-©¬®-´¶-¹¼-¿×÷\u037e\u0387։־׀׃׆׳״\u0600-\u0603\u0606-\u060c\u0614؛؞؟٪٭۔\u0700-\u070d"
    "߶-߸।॥฿๏\u1fbd‖‗‚„-‣‰-‸※‾-⁂⁄⁰⁴-₎₠₤€℀-⅏⅓-⅞←-⯿、。〒・！-／：-＠［-｀｛-･￠￡￥￦]",
]
FIND = re.compile(f"{DROPPED}|({'|'.join(TOKENS)})").findall

# ---- Rewriting

# A tab separates like a space, and no token contains one.
ENTITIES = {
    "amp": "&", "apos": "'", "gt": "\t>\t", "lt": "\t<\t", "quot": '"',
    "mdash": "\t", "nbsp": "\t", "ndash": "\t",
}  # fmt: skip
ENTITY = re.compile(f"&({'|'.join(ENTITIES)});", re.IGNORECASE)
# soft hyphens; characters by their codes in Windows-1252; an obsolete sign of the euro
REPLACED = str.maketrans(
    {"\xad": "", "\x80": "€", "\x91": "‘", "\x92": "’", "\x93": "“", "\x94": "”", "₠": "€"}
)
SIGNS = {
    "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "¢": "cents", "£": "#", "€": "$", "¤": "$",
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
}  # fmt: skip
WITHIN = str.maketrans({"(": "-lrb-", ")": "-rrb-", " ": "\xa0"})
CURLY = re.compile("[`‘-‟‹›«»]{2}|n[’‘]t|’(?:[dms]|ll|re|ve)")
STRAIGHT = str.maketrans(
    {"“": "``", "”": "''", "‘": "`", "’": "'", "«": "``", "»": "''", "‹": "`", "›": "'", "‛": "`"}
)


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
