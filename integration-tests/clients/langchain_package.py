"""langchain-openai's ChatOpenAI: plain, streamed, tools bound and answered, structured output both ways."""

from typing import Literal

from case import MAX_TOKENS, QUESTION, TOOLS, run
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Colours(BaseModel):
    """A colour and a number."""

    colour: Literal["red", "green"]
    n: Literal[1, 2, 3]


def client(url, case):
    model = ChatOpenAI(base_url=url + "/v1", api_key="-", model="any", temperature=0, max_tokens=MAX_TOKENS, max_retries=0)
    golden = [(message["role"], message["content"]) for message in case["messages"]]
    bound = model.bind_tools(TOOLS, tool_choice="get_weather")
    question = HumanMessage(QUESTION[0]["content"])
    called = bound.invoke([question])
    streamed = None
    for chunk in bound.stream([question]):
        streamed = chunk if streamed is None else streamed + chunk
    results = [ToolMessage("Sunny.", tool_call_id=call["id"]) for call in called.tool_calls]
    answer = model.bind_tools(TOOLS).invoke([question, called, *results], max_tokens=30)
    return {
        "plain": model.invoke(golden).content,
        "streamed": "".join(chunk.content for chunk in model.stream(golden)),
        "called": [[call["name"], call["args"]] for call in called.tool_calls],
        "called_finish": called.response_metadata["finish_reason"],
        "called_streamed": [[call["name"], call["args"]] for call in streamed.tool_calls],
        "answer": bool(answer.content or answer.tool_calls),
        "schema": model.with_structured_output(Colours, method="json_schema").invoke([question]).colour,
        "function": model.with_structured_output(Colours, method="function_calling").invoke([question]).colour,
    }


run(client)
