"""Renders the templates with transformers and records text and assistant spans. Run in this folder: python record.py"""
import glob, json, os
from transformers.utils.chat_template_utils import render_jinja_template

tool = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Name & \"country\""}}, "required": ["city"]}}}
user = {"role": "user", "content": "What's 2 + 2?\n<b>\u00fcber</b> \u6771\u4eac"}
answer = {"role": "assistant", "content": "It is 4."}
conversations = {
    "plain": {"messages": [user]},
    "turns": {"messages": [user, answer, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes \U0001f389"}]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, user, answer]},
    "tools": {"messages": [user], "tools": [tool]},
    "toolCall": {"tools": [tool], "messages": [
        {"role": "system", "content": "Use tools."}, user,
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "\u6771\u4eac", "days": 2}}}]},
        {"role": "tool", "name": "get_weather", "content": "{\"sky\": \"clear\"}"}, answer]},
}
recorded = {"conversations": conversations, "renderings": []}
for path in sorted(glob.glob("templates/*.jinja")):
    template = open(path, encoding="utf-8").read()
    for name, conversation in conversations.items():
        for generation in (False, True):
            entry = {"template": os.path.basename(path)[:-6], "conversation": name, "addGenerationPrompt": generation}
            try:
                text, spans = render_jinja_template(
                    conversations=[conversation["messages"]], tools=conversation.get("tools"), chat_template=template,
                    return_assistant_tokens_mask="{% generation" in template or "{%- generation" in template,
                    add_generation_prompt=generation, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", date_string="26 Jul 2024")
                entry["text"] = text[0]
                # Indices count code points; the tests count UTF-16 code units.
                utf16 = lambda at: len(text[0][:at].encode("utf-16-le")) // 2
                entry["spans"] = [[utf16(a), utf16(b)] for a, b in spans[0]] if spans else None
            except Exception as error:
                entry["error"] = type(error).__name__
            recorded["renderings"].append(entry)
json.dump(recorded, open("recorded.json", "w", encoding="utf-8"), ensure_ascii=False, indent=1)
