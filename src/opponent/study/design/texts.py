"""The texts of a new study, to be edited in its study.json."""

import re

TITLE = "Which picture switches it on, which switches it off?"

# On the page, a line of study.json is a paragraph.
_WRAPS = re.compile(r"(?<!\n)\n(?!\n)")
CONSENT = _WRAPS.sub(
    " ",
    """\
You are asked to take part in a research study about pictures and artificial neural networks.

What you do: you look at small pictures and choose those that you think belong, or least belong, to
a group. It takes about 15 minutes.

What is stored: which pictures you choose, when and how long it takes, when you begin and end, the
kind of your browser, the size of its window and of the screen, and the IDs that your recruiting
service hands over. No name, address or e-mail.

Your rights: taking part is voluntary. You can withdraw at any time until the end, without a reason.
All your answers are then deleted: which pictures you chose, when, and how long it took. What is
kept says that you agreed and withdrew: when you began and withdrew, the kind of your browser, the
size of its window and of the screen, and the recruiting service's IDs, so that nobody is counted or
paid twice.

There are no known risks. Some pictures show animals, food or people.

Who is responsible: [name, institution and e-mail; ethics approval].

I am at least 18 years old, I have read this, and I agree to take part.""",
)
DEBRIEFING = _WRAPS.sub(
    " ",
    """\
Thank you for taking part.

Each group of pictures was chosen by one small part of an artificial neural network: they are those
to which it responds most. Of the nine choices, one was another of these, and one was the picture
that silences it most. We want to know whether people can tell, and in which parts of the network.

Questions? [e-mail of who is responsible]""",
)
