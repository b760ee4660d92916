"""Which questions of a host get the password, and who answers the others.

A prompt gets the password if it is the only one of its round, hidden, and speaks of a
password, not of a code, a token or a PIN, nor of a new password. The words are English
and those of Linux-PAM's translations.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable, Sequence

from parallel_exec.environments.ssh.userauth import Question
from parallel_exec.errors import AuthenticationError
from parallel_exec.reactor import lifecycle
from parallel_exec.text import plain_lines
from parallel_exec.values.secret import Secret

__all__ = ["Prompt", "ask", "asks_for_password"]

Prompt = Callable[[str, bool], str | Secret]

TURN_LOOK_S = 0.2  # how often one that waits for its turn looks whether the host is still there

# "Password" in the languages of Linux-PAM, without case; what stands for several is a stem.
PASSWORDS = (
    *("password", "passord", "passwort", "wachtwoord", "adgangskode", "kodeord", "lösenord"),
    *("mot de passe", "contraseña", "contrasenya", "contrasinal", "contrasigno", "senha"),
    *(
        "palavra-passe",
        "parol",
        "parool",
        "pasvort",
        "pasahitz",
        "salasana",
        "focal faire",
        "lykilorð",
    ),
    *("cyfrinair", "heslo", "hasło", "jelszó", "lozink", "geslo", "slaptažod", "şifrə", "şifre"),
    *("sandi", "kata laluan", "mật khẩu", "iphasiwedi", "wagwoord", "fjalëkalim"),
    *("пароль", "парола", "лозинк", "құпия сөз", "нууц үг", "συνθηματικό", "κωδικός πρόσβασης"),
    *("პაროლ", "գաղտնաբառ", "ססמה", "סיסמה", "סיסמא", "كلمة السر", "كلمة سر", "كلمة المرور"),
    *("گذرواژه", "गुप्तशब्द", "शब्दकूट", "पासवर्ड", "পাসওয়ার্ড", "গুপ্তশব্দ", "પાસવર્ડ", "ਪਾਸਵਰਡ"),
    *("ପ୍ରବେଶ ସଙ୍କେତ", "கடவுச்சொல்", "సంకేతపదము", "ಗುಪ್ತಪದ", "അടയാളവാക്ക്", "රහස්පදය", "රහස් පදය"),
    *("ពាក្យសម្ងាត់", "รหัสผ่าน", "パスワード", "암호", "비밀번호", "密码", "密碼"),
)
# What asks for something else, although it may have one of those words as well.
OTHERS = (
    *(r"code", r"(?<!adgangs)kod(?!e?ord)", r"kód", r"códig", r"codi[gc]", r"\bcod\b", r"код"),
    *(r"κωδικ(?!ό[ςσ] πρόσβασης)", r"コード", r"코드", r"验证码", r"驗證碼", r"認証", r"인증"),
    *(r"token", r"tóken", r"jeton", r"токен", r"トークン", r"토큰", r"令牌"),
    *(r"\bpin\b", r"пин", r"\bpuk\b", r"暗証"),
    *(r"otp", r"one.?time", r"einmal", r"usage unique", r"un solo uso", r"uso único", r"monouso"),
    *(r"engång", r"engang", r"eenmalig", r"jednoraz", r"jednoráz", r"једнократ", r"единораз"),
    *(r"одноразов", r"kertakäyttö", r"tek kullanım", r"egyszer", r"一次", r"动态", r"動態"),
    *(
        r"ワンタイム",
        r"일회용",
        r"\b[2m]fa\b",
        r"factor",
        r"yubikey",
        r"challenge",
        r"verif",
        r"\bs/key",
    ),
)
# What asks for a password that there is not yet.
NEW = (
    *(r"\bnew\b", r"retype", r"re-?enter", r"\bagain\b", r"confirm", r"\bneu", r"\berneut"),
    *(r"\bnouveau", r"\bnuev[ao]", r"\bnuov[ao]", r"\bnov[aáeéiouyý]\w?\b", r"\bnowe\b"),
    *(r"\bny\b", r"\bnytt\b", r"\buu(?:si|s|den)\b", r"nieuw", r"\búj\b", r"\byeni\b", r"\bnouă"),
    *(r"\bberri", r"\bnua\b", r"\bnyt\b", r"\bнов", r"\bжаңа", r"ახალ", r"חדשה", r"جديدة"),
    *(r"নতুন", r"নতুন", r"नया", r"नवीन", r"નવો", r"ਨਵਾਂ", r"ନୂତନ", r"புதிய", r"కొత్త", r"ಹೊಸ"),
    *(r"വീണ്ടും", r"പുതിയ", r"නව", r"ថ្មី", r"mới", r"\bentsha\b", r"新", r"새 ", r"신규", r"\bbaru\b"),
)


def _folded(text: str) -> str:
    """Return text without case, width, compositions and what is not seen."""
    text = unicodedata.normalize("NFKC", text).casefold()
    return "".join(sign for sign in text if unicodedata.category(sign) != "Cf")


_PASSWORDS = re.compile("|".join(re.escape(_folded(word)) for word in PASSWORDS))
_OTHERS = re.compile("|".join(_folded(pattern) for pattern in (*OTHERS, *NEW)))


def asks_for_password(questions: Sequence[Question], user: str = "") -> bool:
    """Return whether a round asks for the account's password and for nothing else."""
    if len(questions) != 1 or questions[0].shown:
        return False
    text = _folded(questions[0].text)
    if _PASSWORDS.search(text) is None:
        return False
    # The names of users and hosts say nothing about what is asked.
    text = re.sub(r"\S+@\S+", "", text)
    if user:
        text = re.sub(rf"\bfor {re.escape(_folded(user))}\b", "", text)
    return _OTHERS.search(text) is None


_turn = threading.Lock()  # held by whoever asks the user: one at a time in this process


def _after_fork_in_child() -> None:
    global _turn
    _turn = threading.Lock()


lifecycle.at_fork("ssh prompts", _after_fork_in_child)


def ask(prompt: Prompt, question: Question, told: str, wanted: Callable[[], bool]) -> Secret:
    """Return the user's answer to a question; `prompt` is called by one thread at a time.

    Args:
        told: The question, as errors have it.
        wanted: Asked now and then whether somebody still waits for the answer.

    Raises:
        AuthenticationError: The function raised or gave no text, or the answer is no
            longer wanted.
    """
    turn = _turn
    while not turn.acquire(timeout=TURN_LOOK_S):
        if not wanted():
            raise AuthenticationError(f"the host hung up before {told} was answered")
    try:
        answer = prompt("\n".join(plain_lines(question.text)), question.shown)
    except Exception as error:
        raise AuthenticationError(
            f"prompt= raised {type(error).__name__} when the host asked {told}"
        ) from error
    finally:
        turn.release()
    if not isinstance(answer, str | Secret):
        raise AuthenticationError(
            f"prompt= must give a str or a Secret, not {type(answer).__name__}, when the host"
            f" asks {told}"
        )
    secret = answer if isinstance(answer, Secret) else Secret(answer)
    if not _can_be_sent(secret):
        raise AuthenticationError(f"what prompt= gave for {told} cannot be encoded")
    return secret


def _can_be_sent(secret: Secret) -> bool:
    try:
        secret.reveal().encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
