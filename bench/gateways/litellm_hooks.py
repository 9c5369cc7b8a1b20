"""LiteLLM's documented hooks for a proxy without a database: who may ask, and a line for what each request cost."""
import hashlib
import json
from pathlib import Path

from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy._types import UserAPIKeyAuth

DIRECTORY = Path(__file__).parent


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = {digest((DIRECTORY / "key").read_text().strip()): "bench"}


async def check_key(request, api_key):
    user = KEYS.get(digest(api_key))
    if user is None:
        raise ValueError("unknown key")
    return UserAPIKeyAuth(api_key=api_key, user_id=user)


class SpendLog(CustomLogger):
    def __init__(self):
        super().__init__()
        self.file = open(DIRECTORY / "spend.jsonl", "a", buffering=1)

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        entry = kwargs["standard_logging_object"]
        line = {"id": entry["id"], "user": entry["metadata"].get("user_api_key_user_id"),
                "key": entry["metadata"].get("user_api_key_hash"), "model": entry["model"],
                "prompt_tokens": entry["prompt_tokens"], "completion_tokens": entry["completion_tokens"],
                "spend": entry["response_cost"], "start": entry["startTime"], "end": entry["endTime"]}
        self.file.write(json.dumps(line) + "\n")


spend_log = SpendLog()
