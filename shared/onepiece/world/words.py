"""The words of the small fictional world, each in English and in Traditional Chinese.

A word is a pair `(English, Traditional Chinese)`; its index in its list is its identity, which is the same in both
languages. People have one name in both. The lists are short on purpose: a model of 0.3M parameters has to know them all.
"""

from __future__ import annotations

Word = tuple[str, str]

# fmt: off
PEOPLE: tuple[str, ...] = (
    "Mira", "Otto", "Lena", "Hugo", "Nora", "Ivan", "Sara", "Theo", "Ruth", "Karl", "Emma", "Finn",
    "Gina", "Hans", "Iris", "Jack", "Kira", "Liam", "Maya", "Nils", "Olga", "Paul", "Rosa", "Sven",
    "Tina", "Umar", "Vera", "Walt", "Xena", "Yuri", "Zoe", "Adam", "Bela", "Cora", "Dirk", "Elsa",
    "Fred", "Gwen", "Hope", "Igor", "June", "Kent", "Lily", "Milo", "Nina", "Omar", "Pia", "Remy",
    "Sofia", "Toby", "Una", "Vito", "Wren", "Yara", "Zane", "Alma", "Boris", "Clara", "Dean", "Edith",
)

NEW_PEOPLE: tuple[str, ...] = (
    "Arlo", "Bruno", "Celia", "Dora", "Ezra", "Flora", "Greta", "Henri", "Ines", "Jonas", "Lotte", "Mabel",
    "Noel", "Odin", "Petra", "Quinn", "Rolf", "Stella", "Tessa", "Ursula", "Viola", "Wanda", "Xaver", "Yusuf",
)
"""People whom no pretraining text names: what is true of them has to be learnt later."""
# fmt: on

CITIES: tuple[Word, ...] = (
    ("Rivon", "瑞溫"),
    ("Tarsel", "塔瑟"),
    ("Lumo", "盧莫"),
    ("Askel", "艾斯克"),
    ("Norvik", "諾維"),
    ("Belmar", "貝瑪"),
    ("Cadia", "卡迪"),
    ("Doran", "多蘭"),
    ("Elmet", "葉梅"),
    ("Fenby", "芬比"),
    ("Goran", "戈朗"),
    ("Hale", "海爾"),
)
JOBS: tuple[Word, ...] = (
    ("baker", "麵包師"),
    ("doctor", "醫生"),
    ("pilot", "機師"),
    ("farmer", "農夫"),
    ("painter", "畫家"),
    ("teacher", "老師"),
    ("sailor", "水手"),
    ("singer", "歌手"),
    ("nurse", "護理師"),
    ("lawyer", "律師"),
    ("cook", "廚師"),
    ("judge", "法官"),
)
PETS: tuple[Word, ...] = (
    ("cat", "貓"),
    ("dog", "狗"),
    ("rabbit", "兔子"),
    ("parrot", "鸚鵡"),
    ("turtle", "烏龜"),
    ("horse", "馬"),
    ("goat", "山羊"),
    ("duck", "鴨子"),
    ("snake", "蛇"),
    ("fox", "狐狸"),
    ("owl", "貓頭鷹"),
    ("mouse", "老鼠"),
)
DRINKS: tuple[Word, ...] = (
    ("tea", "茶"),
    ("coffee", "咖啡"),
    ("milk", "牛奶"),
    ("juice", "果汁"),
    ("water", "水"),
    ("cocoa", "可可"),
    ("lemonade", "檸檬水"),
    ("soymilk", "豆漿"),
    ("beer", "啤酒"),
    ("soda", "汽水"),
    ("wine", "葡萄酒"),
    ("boba", "珍奶"),
)

COLOURS: tuple[Word, ...] = (
    ("red", "紅色"),
    ("blue", "藍色"),
    ("green", "綠色"),
    ("yellow", "黃色"),
    ("black", "黑色"),
    ("white", "白色"),
    ("pink", "粉色"),
    ("gray", "灰色"),
)

LETTERS = "abcdefghjkmnprstuvwx"
"""Twenty letters. `i`, `l`, `o` and `q` are left out because people misread them, `y` and `z` to keep twenty."""

OBJECTS: tuple[Word, ...] = (
    ("lamp", "燈"),
    ("rope", "繩子"),
    ("map", "地圖"),
    ("key", "鑰匙"),
    ("coin", "硬幣"),
    ("letter", "信"),
    ("hat", "帽子"),
    ("cup", "杯子"),
    ("shell", "貝殼"),
    ("drum", "鼓"),
    ("flag", "旗子"),
    ("bell", "鈴鐺"),
)
CLASSIFIERS: tuple[str, ...] = ("盞", "條", "張", "把", "枚", "封", "頂", "個", "個", "面", "面", "個")
"""The measure word of each object: 一盞燈, 一條繩子, ..."""

PLACES: tuple[Word, ...] = (
    ("harbor", "港口"),
    ("market", "市場"),
    ("forest", "森林"),
    ("beach", "海邊"),
    ("garden", "花園"),
    ("station", "車站"),
    ("school", "學校"),
    ("library", "圖書館"),
)
WEATHER: tuple[Word, ...] = (
    ("It was raining.", "天空下著雨。"),
    ("It was sunny.", "天氣晴朗。"),
    ("It was windy.", "風很大。"),
    ("It was cold.", "天氣很冷。"),
)

SUBJECTS: tuple[Word, ...] = (
    ("soup", "這碗湯"),
    ("film", "這部電影"),
    ("song", "這首歌"),
    ("room", "這個房間"),
    ("book", "這本書"),
    ("trip", "這趟旅行"),
    ("game", "這款遊戲"),
    ("cake", "這塊蛋糕"),
    ("class", "這堂課"),
    ("story", "這個故事"),
    ("party", "這場派對"),
    ("hotel", "這間飯店"),
)
POSITIVE: tuple[Word, ...] = (
    ("good", "好"),
    ("great", "棒"),
    ("superb", "出色"),
    ("pleasant", "舒服"),
    ("charming", "迷人"),
    ("excellent", "優秀"),
    ("perfect", "完美"),
    ("fun", "有趣"),
    ("brilliant", "精彩"),
    ("lovely", "可愛"),
)
NEGATIVE: tuple[Word, ...] = (
    ("bad", "差"),
    ("awful", "糟"),
    ("terrible", "可怕"),
    ("boring", "無聊"),
    ("poor", "遜"),
    ("nasty", "討厭"),
    ("horrible", "恐怖"),
    ("dull", "沉悶"),
    ("messy", "混亂"),
    ("lame", "爛"),
)
DEGREES: tuple[Word, ...] = (
    ("is", "很"),
    ("is really", "真的很"),
    ("is very", "非常"),
    ("is not", "不"),
    ("is never", "從來不"),
    ("is not at all", "一點也不"),
)
"""How much of the adjective holds. From index 3 on the judgement is negated."""

FIRST_NEGATION = 3

MOODS: tuple[Word, ...] = (("negative", "負面"), ("positive", "正面"))
CODES: tuple[Word, ...] = (("blue", "藍色"), ("green", "綠色"))
"""The labels that the held-back re-labelling gives to (negative, positive): known words, never an answer to a review."""
