"""Words for invented people and their wishes; identity numbers use a region code that no place has."""

from random import Random

from ledger.personal_numbers import check_character

SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰建国红梅志文海燕春生晓东小龙雪莲永福彩琴世昌淑珍"
REGION = "999999"
"""No division of the country has this code, so no number below can be anybody's."""

NEEDS = {
    "theory": ["想请人到村里讲讲最新的政策", "党员活动室需要一次宣讲"],
    "culture": ["庙会前想请人教秦腔", "社区想办一场露天电影", "老年活动室想学广场舞"],
    "schooling": ["孩子暑假没人辅导作业", "留守儿童想有人陪读书"],
    "health": ["老人行动不便，想请人上门量血压", "独居老人需要陪同就医", "想请人来讲合理用药"],
    "science": ["果园想请人指导修剪", "想学手机缴费和防诈骗"],
    "law": ["邻里有土地纠纷，想咨询", "想了解赡养方面的法律"],
    "ecology": ["河道边垃圾多，想一起清理", "村口想种树"],
    "relief": ["雨后房前积水，需要帮手", "受灾户需要搬运物资"],
    "other": ["家里灯坏了，老人不会修", "想请人帮忙写春联"],
}
COMMENTS = ["很热心，谢谢", "准时到，做得仔细", "帮了大忙", "还可以", "来得有点晚", "希望下次还能来"]
DEPARTMENTS = [
    "教育局",
    "文旅局",
    "卫健局",
    "农业农村局",
    "科技局",
    "司法局",
    "民政局",
    "团县委",
    "妇联",
    "总工会",
    "科协",
    "文联",
    "图书馆",
    "文化馆",
    "博物馆",
    "人民医院",
    "中医院",
    "第一中学",
    "第二中学",
    "职教中心",
    "公安局",
    "消防大队",
    "交通局",
    "水务局",
    "林草局",
    "自然资源局",
    "生态环境局",
    "住建局",
    "应急局",
    "市场监管局",
    "税务局",
    "供电公司",
    "邮政公司",
    "融媒体中心",
    "气象局",
    "残联",
    "红十字会",
    "老年大学",
    "青少年宫",
    "体育中心",
]
PROFESSIONAL = {
    "theory": ("理论宣讲", ("party_school",)),
    "skills": (
        "技能培训",
        ("human_resources", "agriculture", "commerce", "womens_federation", "livestock", "fruit_industry"),
    ),
    "customs": (
        "文明新风培育",
        ("civility_office", "youth_league", "womens_federation", "civil_affairs", "education"),
    ),
    "science": ("科普宣传", ("science_bureau", "science_association", "agriculture", "forestry")),
    "law": ("法律宣传", ("justice",)),
    "culture": ("文化惠民", ("culture_tourism", "literature_art", "sports")),
}
"""The six professional teams (S031) by category: the name, and the departments, of which the first leads (S032)."""

CIVIC = {
    "cadres": "党员干部",
    "theory_talk": "理论宣讲",
    "volunteers": "志愿者",
    "new_gentry": "新乡贤",
    "models": "先进典型",
    "five_elders": "五老",
}
"""The six civic teams by who serves in them (S035)."""


def person_name(random: Random) -> str:
    """Two or three characters."""
    return random.choice(SURNAMES) + "".join(random.sample(GIVEN, random.choice((1, 2, 2, 2))))


def id_number(number: int, random: Random) -> str:
    """A number of the right form that belongs to nobody; ``number`` makes it unique."""
    year, month, day = random.randint(1946, 2007), random.randint(1, 12), random.randint(1, 28)
    first = f"{REGION}{year}{month:02}{day:02}{number % 1000:03}"
    return first + check_character(first)


def phone(number: int) -> str:
    """A mobile number in a block kept for this demonstration."""
    return f"199{number % 10**8:08}"
