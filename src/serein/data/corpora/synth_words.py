"""What the synthetic corpus says, and what its raters hear and remark."""

from __future__ import annotations

SCRIPTED = (
    "I left the keys on the kitchen table.",
    "The train leaves at seven in the morning.",
    "She put the letter in the second drawer.",
    "They are coming back on Monday evening.",
    "You can find the papers next to the door.",
    "We have been waiting here for an hour.",
    "The blue jacket belongs to my brother.",
    "He said that he would call after lunch.",
    "There are four bags under the window.",
    "It takes ten minutes to walk to the shop.",
    "My sister works in the office downstairs.",
    "The meeting was moved to the other room.",
    "I have to tell you about the phone call.",
    "The water in the glass is almost gone.",
    "We talked about it again last weekend.",
    "Somebody parked a van across the street.",
    "The doctor will see you in the afternoon.",
    "Open the box and look at the pictures.",
    "Tomorrow they will paint the front wall.",
    "He carried the chairs into the garden.",
)
EVERYDAY = (
    "I do not know what to say about that.",
    "that is what she told me yesterday.",
    "we will see how it goes tomorrow.",
    "he was standing right there all the time.",
    "I have thought about it the whole day.",
    "you should have seen the look on his face.",
    "it was not what I expected at all.",
    "they want us to come over tonight.",
    "I need to talk to you about this.",
    "nobody told me that you were coming.",
    "so that is how the story ended.",
    "we have been here three times already.",
)
LEANING = {
    "angry": (
        "this is the third time you lied to me.",
        "stop it, I am sick of your excuses.",
        "you had no right to touch my things.",
        "I hate it when they treat us like this.",
        "get out of my way and leave me alone.",
        "how dare he blame me for his mistake.",
    ),
    "happy": (
        "I got the job, and I love it already.",
        "this is the best news of the whole year.",
        "what a beautiful day, let us celebrate.",
        "we won the game and everybody cheered.",
        "I am so glad that you could come.",
        "she said yes, we are getting married.",
    ),
    "neutral": (
        "the bus stops in front of the library.",
        "please fill in the form and sign here.",
        "the report has twelve pages and a table.",
        "my number is on the back of the card.",
        "the store opens at nine on weekdays.",
        "turn left at the corner after the bank.",
    ),
    "sad": (
        "I miss her so much since she died.",
        "it is over, and I have lost everything.",
        "I cried the whole night and felt alone.",
        "nothing will ever be the same again.",
        "he left without even saying goodbye.",
        "I am sorry, I just cannot do it any more.",
    ),
}
OPENERS = ("Well,", "You know,", "I mean,", "Um,", "So,", "Look,", "Oh,", "And then,")
LEANING_SHARE = 0.5  # of improvised utterances whose words lean towards the emotion

CONFUSIONS = {  # what a rater hears who does not hear what was meant, with probabilities
    "angry": {"frustrated": 0.5, "neutral": 0.2, "happy": 0.15, "disgusted": 0.15},
    "happy": {"excited": 0.5, "neutral": 0.3, "surprised": 0.15, "angry": 0.05},
    "neutral": {"sad": 0.35, "frustrated": 0.3, "happy": 0.25, "angry": 0.1},
    "sad": {"neutral": 0.5, "frustrated": 0.3, "disappointed": 0.2},
}
COMMENTS = {  # from weak to strong
    "angry": ("irritated", "annoyed", "mad", "outraged", "furious"),
    "disappointed": ("resigned", "disappointed", "discouraged", "crushed"),
    "disgusted": ("disdainful", "disgusted", "contemptuous", "repulsed"),
    "excited": ("eager", "excited", "enthusiastic", "thrilled"),
    "frustrated": ("impatient", "frustrated", "vexed", "exasperated"),
    "happy": ("content", "pleased", "cheerful", "joyful", "delighted"),
    "neutral": ("flat", "relaxed", "calm", "factual", "composed"),
    "sad": ("downcast", "gloomy", "sorrowful", "miserable", "heartbroken"),
    "surprised": ("curious", "surprised", "amazed", "astonished"),
}
