"""PTB tokens of captions, as CoreNLP's tokenizer and COCO's list of punctuation make them.

With Java and pycocoevalcap, the expected tokens of these and hundreds of other captions are
computed again.
"""

# ruff: noqa: RUF001 - tests of look-alike quotation marks

import random
import re

import pytest

from tests.captioning.java_stubs import needs_java
from virtex.captioning import java
from virtex.captioning.ptb import tokenize

# subject -> caption -> tokens
ROWS = {
    "plain words": {
        "A man rides a horse on the beach.": "a man rides a horse on the beach",
        "Two dogs, one cat; no birds: none!": "two dogs one cat no birds none",
        "Is this a kitchen?": "is this a kitchen",
        "a sentence without an end": "a sentence without an end",
        " A  kite\tin the\nsky .\n": "a kite in the sky",
        "": "",
        "   ": "",
        ".": "",
    },
    "contractions": {
        "It's a dog that doesn't bark.": "it 's a dog that does n't bark",
        "They're sure we've seen what I'd buy": "they 're sure we 've seen what i 'd buy",
        "THE CAT CAN'T SLEEP": "the cat ca n't sleep",
        "a man's hat and his friends' coats": "a man 's hat and his friends coats",
        "You cannot say what they wanna do": "you can not say what they wan na do",
        "'Tis the season, y'all": "'t is the season y' all",
        "we could've, wouldn't've and shan't": "we could 've would n't 've and sha n't",
    },
    "apostrophes that stay": {
        "hors d'oeuvres at 4 o'clock": "hors d'oeuvres at 4 o'clock",
        "Thank you ma'am, said O'Neil": "thank you ma'am said o'neil",
        "rock 'n' roll of the '90s": "rock 'n' roll of the '90s",
        "get 'em while they're hot": "get 'em while they 're hot",
        "s'mores and li'l hot dogs": "s'mores and li'l hot dogs",
        "Dunkin' Donuts, ol' friend": "dunkin' donuts ol' friend",
        "an l'eau de toilette": "an l'eau de toilette",
        "a jack-o'-lantern": "a jack-o lantern",
    },
    "hyphens": {
        "A black-and-white t-shirt": "a black-and-white t-shirt",
        "a 10-year-old on a two-story bus": "a 10-year-old on a two-story bus",
        "a mother-in-law -- not hers - waits": "a mother-in-law not hers waits",
        "a non-u.s. 1,000-mile race": "a non-u.s. 1,000-mile race",
    },
    "abbreviations": {
        "Mr. and Mrs. Smith on Main St. today": "mr. and mrs. smith on main st. today",
        "a man at the corner of 5th Ave.": "a man at the corner of 5th ave.",
        "the clock reads 10 a.m. or p.m.": "the clock reads 10 a.m. or p.m.",
        "a T.V. and a tv. in the U.S.A.": "a t.v. and a tv in the u.s.a.",
        "J. R. Smith, Jr., Ph.D.": "j. r. smith jr. ph.d.",
        "cats, dogs, etc.": "cats dogs etc.",
        "bus no. 5 says no.": "bus no. 5 says no",
        "a Wash. and an Ore. sign, a wash.": "a wash. and an ore. sign a wash",
        "plan b. The other plan": "plan b the other plan",
    },
    "missing spaces": {
        "a table.The cat,a dog": "a table.the cat a dog",
        "men ,women and children .They wait": "men women and children they wait",
        "a street.,and a sign..": "a street. and a sign",
        "stop!go?now": "stop!go?now",
    },
    "numbers": {
        "It is 8:25, 12:30pm or 7.30": "it is 8:25 12:30 pm or 7.30",
        "$5.00 for 50% of 1,000 items": "$ 5.00 for 50 % of 1,000 items",
        "a .5 mm pen at -5 degrees": "a .5 mm pen at -5 degrees",
        "the 1950s, the 1980's, the 21st": "the 1950s the 1980 's the 21st",
        "a 747 and a 737-800": "a 747 and a 737-800",
        "1/2 cup, 24/7, 12/25/2014": "1/2 cup 24/7 12/25/2014",
        "1 1/2 cups": "1\u00a01/2 cups",
        "1\n1/2 cups": "1\u00a01/2 cups",
        "call (555) 555-1234": "call -lrb-555-rrb-\u00a0555-1234",
        "a 6'2\" man with a 2x4": "a 6 2 man with a 2x4",
        "route #1": "route # 1",
    },
    "slashes and signs": {
        "salt and/or pepper w/o sauce": "salt and/or pepper w/o sauce",
        "a bed w/ pillows": "a bed w / pillows",
        "black & white, B&W, R&B and AT&T": "black & white b&w r&b and at&t",
        "a C++ book @ home": "a c++ book @ home",
        "5 + 5 = 10 * 1": "5 + 5 = 10 * 1",
        "~ a | b \\ c ^ d _ e": "~ a | b \\ c ^ d _ e",
    },
    "quotes": {
        'A sign that says "stop".': "a sign that says stop",
        "a 'stop' sign and ``go''": "a stop sign and go",
        "a “no parking” sign": "a no parking sign",
        "it’s a ‘red’ car, isn’t it": "it 's a red car is n't it",
        "the ’n’ in rock ’n’ roll": "the ’n’ in rock ’n’ roll",
    },
    "brackets": {
        "a man (left) and [sic] {so}": "a man -lrb- left -rrb- and -lsb- sic -rsb- -lcb- so -rcb-",
        "(two women)": "-lrb- two women -rrb-",
        "a smile :) and ;-) and :D": "a smile :-rrb- and ;--rrb- and :d",
    },
    "runs of punctuation": {
        "wow!! what?? no?!": "wow !! what ?? no ?!",
        "wait... what....": "wait what",
        "a cat -- a dog --- a cow": "a cat a dog a cow",
        "a dog -----": "a dog -----",
        "......": "",
        "a cat...5 dogs": "a cat 5 dogs",
        ",,,": "",
    },
    "marks of other alphabets": {
        "A café with crème brûlée": "a café with crème brûlée",
        "El Niño and a jalapeño": "el niño and a jalapeño",
        "½ of 1½ for €5, £5 or 5¢": "1/2 of 1 1/2 for $ 5 # 5 or 5 cents",
        "75° – warm — nice… ™": "75 ° warm nice ™",
        "I ❤ 😀 you": "i ❤ you",
        "soft\u00adhyphen": "softhyphen",
        "a no\u00a0break space": "a no break space",
        "ａ　ＳＴＯＰ　ｓｉｇｎ，　５０％": "ａ ｓｔｏｐ ｓｉｇｎ ， ５０ ％",
        "a sign: カフェ・バー、５,５００円": "a sign カフェ ・ バー 、 ５,５００ 円",
        "١٢/٣ or ٣٫٥، and १२।": "١٢/٣ or ٣٫٥ ، and १२ ।",
        "«a» ««b»» „c‟ ‹d›": "a ```` b '''' „ c ‟ d",
        "5 m² or 10⁻¹² or H₂O": "5 m ² or 10 ⁻¹² or h ₂ o",
        "U.S.é, café's, a֊b": "u.s.é café 's a֊b",
        "𝐁old ﬁsh \ufeff\u200b\ua7ae": "old ﬁsh",
    },
    "addresses": {
        "see www.flickr.com or http://a.org/b.": "see www.flickr.com or http://a.org/b",
        "mail me@x.com, @home or #selfie": "mail me@x.com, @home or #selfie",
        "flickr.com/photos, image.jpg": "flickr.com/photos image.jpg",
    },
    "markup": {
        "salt &amp; pepper &lt;3": "salt & pepper < 3",
        "a <b>bold</b> man&apos;s hat": "a <b> bold </b> man 's hat",
    },
    "spelling": {
        "grey colors at the theatre center": "grey colors at the theatre center",
        "a jewellery catalog, pyjamas, a tyre": "a jewellery catalog pyjamas a tyre",
    },
}
ALL_ROWS = {caption: tokens for rows in ROWS.values() for caption, tokens in rows.items()}

# written in a hurry
WRITTEN = """
A woman in a red coat waits at a bus stop.
Two kids sharing an ice cream cone on a park bench
a dog looking out of a car's window .
The kitchen has a stove, a sink and a refrigerator that doesn't match.
A man w/ an umbrella, and another one without..
Three surfers walk along the beach; one of them carries a long-board
A plate of food: rice, beans & a fried egg.
There's a bench in front of the house.It is painted green.
an old fashioned clock that reads 10:45 a.m.
A stop sign with "eating animals" written on it!
A group of people,some sitting,some standing.
The no. 12 bus in front of St. Mary's church.
A 3-tiered cake with the number 50 on top
A tennis player in mid-air hitting a ball
A giraffe's neck (very long) above the fence
A cat sleeps on the keyboard of a lap-top computer..
Mother and daughter at the zoo, looking at polar bears' cubs.
a person on a snowboard doing a 360.
a half eaten sandwich, some french fries and a 12oz. drink
An air plane that's about to land at O'Hare airport.
""".strip().splitlines()

WORDS = """
    a the this of in on at with and near two man woman dog street table kite clock bus plate snow
    holding sitting rides eats looks blue wooden large old color center
"""
ODD_WORDS = """
    Mr. St. st. Ave. U.S. u.s. T.V. tv. a.m. e.g. etc. no. No. vs. J. p. Jr. don't CAN'T it's it’s
    man's dogs' o'clock ma'am 'em 'n' '90s 'tis y'all cannot gonna gimme t-shirt black-and-white
    10-year-old x-ray 8:25 12:30pm 1,000 2.5 .5 $5 50% 5th 1950s 1/2 24/7 8x10 #1 and/or w/ w/o &
    AT&T B&W b&w @ (left) [sic] :) "stop" 'go' “no” ‘so’ — – … ½ €5 75° café naïve jalapeño
    &amp; <b> * ~ _ -- - ... !! ?
"""
ENDS = [".", ".", ".", "", " .", "..", "...", "!", "!!", "?", ",", ";", '."', ".)", " "]
JOINTS = [
    *[" "] * 20,
    ",", ", ", " ,", ".", ". ", " - ", "-", "/", "  ", ".,", ";", ": ", "' ", " '",
]  # fmt: skip


def random_captions(count, seed=0):
    """Generate sentences of ordinary and odd words, some of them joined."""
    draw = random.Random(seed)
    words, odd_words = WORDS.split(), ODD_WORDS.split()
    captions = []
    for _ in range(count):
        drawn = [draw.choice(draw.choice([words, words, odd_words])) for _ in range(10)]
        text = "".join(word + draw.choice(JOINTS) for word in drawn).rstrip() + draw.choice(ENDS)
        captions.append(draw.choice([text, text.capitalize(), text.title(), text.upper()]))
    return captions


def random_characters(count, seed=0):
    """Generate random punctuation, letters and digits."""
    draw = random.Random(seed)
    marks = "aAbé19 ..,,'’‘\"“-–/:;!?&@#$%()[]{}<>*_~`^|\\½°€\t\n\u00ad\u200b😀"
    return ["".join(draw.choices(marks, k=draw.randrange(12))) for _ in range(count)]


SCRIPTS = [
    "abcdeABCDE019", "éèüßñøÅİıŞçœ", "ａｂｃＡＢＣ０１９", "日本語漢字仮名カナひらがなー",
    "ｶﾅ한국어ไทย", "αβγΣςωкошкаЁж", "אבגשלוםעربي", "नमस्ते१२٠١٢", "ªºµﬁﬂĳₐⅠℓℵ",
]  # fmt: skip
SYMBOLS = (
    "。、・「」！？，．：；（）［］＜＞／＼＠＆＊＋＝～＃＄￥￡", "¡¿«»‹›„‚“”‘’‛‟\"'`´′″־׃،؟।॥",
    "½⅓¼²³₂⁴①Ⅷ€£¥¢₠₹$%°‰№…‥⋯•·‧★→∞≠√☕", "-‐‑‒–—―−_֊.,;:!?()[]{}<>/\\|&*+=~^",
    "\u200b\u200e\u2060\ufeff\u00a0\u3000\u2003\u202f\x80\x91\x92\x93\x94😀🏽👨\u200d👩\ufe0f𝐁𠀀",
)  # fmt: skip


def random_scripts(count, seed=0):
    """Generate words of many scripts, with symbols around and between them."""
    draw = random.Random(seed)
    captions = []
    for _ in range(count):
        text = ""
        for _ in range(draw.randrange(1, 9)):
            text += "".join(draw.choices(draw.choice(SCRIPTS), k=draw.randrange(1, 6)))
            text += draw.choice([" ", " ", *draw.choices("".join(SYMBOLS), k=2)])
        captions.append(text)
    return captions


@pytest.mark.parametrize("subject", ROWS)
def test_tokens(subject):
    found = {caption: " ".join(tokenize(caption)) for caption in ROWS[subject]}
    assert found == ROWS[subject]


def test_final_single_letter_keeps_period():
    assert tokenize("the letter b.") == ["the", "letter", "b."]


@pytest.mark.parametrize("caption", WRITTEN)
def test_white_space_does_not_matter(caption):
    assert tokenize(f"\n {caption.replace(' ', chr(10))}  ") == tokenize(caption)


@pytest.mark.parametrize("caption", WRITTEN)
def test_tokenization_is_idempotent_for_words(caption):
    words = [token for token in tokenize(caption) if token.isalpha()]
    assert tokenize(" ".join(words)) == words


# the evaluation's own list, by https://github.com/tylin/coco-caption
PUNCTUATION = ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-"]
PUNCTUATION += [".", "?", "!", ",", ":", "-", "--", "...", ";"]


@pytest.mark.parametrize("draw", [random_captions, random_characters])
def test_tokens_are_valid(draw):
    for caption in draw(2000):
        for token in tokenize(caption):
            assert token and not re.search("[ \t\n]", token), caption
            assert token not in PUNCTUATION, caption
            assert token == token.lower(), caption


def tokenize_with_java(captions):
    """Tokenize with CoreNLP, separating captions so that the next one has no influence."""
    return java.tokenize([line for caption in captions for line in (caption, "and so on")])[::2]


@needs_java
@pytest.mark.parametrize(
    "captions",
    [list(ALL_ROWS), WRITTEN, random_captions(600), random_captions(600, 1), random_scripts(100)],
    ids=["rows", "written", "random", "random_2", "scripts"],
)
def test_matches_corenlp(captions):
    expected = tokenize_with_java(captions)
    different = {
        caption: (tokens, tokenize(caption))
        for caption, tokens in zip(captions, expected, strict=True)
        if tokenize(caption) != tokens
    }
    assert not different
