
"use strict";
const at = (id) => document.getElementById(id);
const chat = at("chat"), form = at("form"), question = at("question"), send = at("send");
const asked = [];
let turns = 0;

function element(tag, text, kind) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

/* Texts are only ever put in as texts: what a document says cannot become a part of the page. */
function say(said, text, turn) {
  const parts = text.split(/\[(\d+)\]/);
  said.replaceChildren(...parts.map((part, index) => {
    if (index % 2 === 0) return document.createTextNode(part);
    const mark = element("a", part, "mark");
    mark.href = `#t${turn}s${part}`;
    mark.title = "Its source";
    return mark;
  }));
}

function list(sources, turn) {
  const made = element("ol", "", "sources");
  made.append(...sources.map((source) => {
    const item = element("li"), details = element("details"), summary = element("summary");
    item.id = `t${turn}s${source.number}`;
    summary.append(element("b", `[${source.number}]`), source.title);
    details.append(summary, element("blockquote", source.text));
    if (/^https?:\/\//.test(source.url)) {
      const link = element("a", source.url);
      Object.assign(link, { href: source.url, target: "_blank", rel: "noopener noreferrer" });
      details.append(link);
    } else details.append(element("small", source.url));
    item.append(details);
    return item;
  }));
  return made;
}

function keyed() {
  const headers = { "Content-Type": "application/json" };
  if (at("key") && at("key").value.trim()) headers["X-API-Key"] = at("key").value.trim();
  return headers;
}

/* What a reader thinks of an answer; it takes a key that may say so. */
function opinions(text) {
  const made = element("p", "", "opinions");
  const tell = async (good) => {
    try {
      const body = JSON.stringify({ question: text, good });
      const told = await fetch(chat.dataset.feedback, { method: "POST", headers: keyed(), body });
      made.textContent = told.ok ? "Thank you." : (await told.json()).error.message;
    } catch (error) {
      made.textContent = "The server cannot be reached.";
    }
  };
  for (const [name, good] of [["Right", true], ["Wrong", false]]) {
    const button = element("button", name, good ? "right" : "wrong");
    button.type = "button";
    button.addEventListener("click", () => tell(good));
    made.append(button);
  }
  return made;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n\n");
    held = lines.pop();
    for (const line of lines) {
      if (line.startsWith(":")) {  // a comment: nothing has come yet
        yield { waiting: line };
        continue;
      }
      const data = line.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

/* What an answer waits for, by what the server says of it. */
function patience(told) {
  const before = told.match(/behind (\d+)/)?.[1];
  if (before === undefined) return "Working";
  return before === "0" ? "You are next" : `${before} asked before you`;
}

async function answer(text) {
  const turn = ++turns, block = element("article", "", "turn"), said = element("div", "", "said waiting");
  block.append(element("h2", text), said);
  chat.append(block);
  block.scrollIntoView({ block: "nearest" });
  asked.push({ role: "user", content: text });
  const body = { model: chat.dataset.model, stream: true, messages: asked.slice(-6) };
  let whole = "", sources = [];
  try {
    const response = await fetch(chat.dataset.path, { method: "POST", headers: keyed(), body: JSON.stringify(body) });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if ("waiting" in event) {
        if (!whole) said.textContent = patience(event.waiting);
        continue;
      }
      whole += event.choices?.[0]?.delta?.content || "";
      sources = event.sources || sources;
      say(said, whole, turn);
    }
    if (sources.length) block.append(list(sources, turn));
    if (chat.dataset.feedback) block.append(opinions(text));
    block.dataset.done = "yes";
  } catch (error) {
    asked.pop();
    said.classList.add("failed");
    said.textContent = error.message || "The server cannot be reached.";
  } finally {
    said.classList.remove("waiting");
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = question.value.trim();
  if (!text || send.disabled) return;
  send.disabled = true;
  question.value = "";
  if (at("examples")) at("examples").hidden = true;
  await answer(text);
  send.disabled = false;
  question.focus();
});

question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

for (const button of document.querySelectorAll(".example")) {
  button.addEventListener("click", () => {
    question.value = button.textContent;
    form.requestSubmit();
  });
}

chat.addEventListener("click", (event) => {
  const mark = event.target.closest("a.mark");
  const source = mark && document.getElementById(mark.getAttribute("href").slice(1));
  if (source) source.querySelector("details").open = true;
});
