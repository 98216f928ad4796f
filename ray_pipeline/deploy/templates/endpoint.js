
"use strict";
const form = document.getElementById("form");
const at = (id) => document.getElementById(id);

async function base64(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  return url.slice(url.indexOf(",") + 1);
}

async function value(field) {
  if (field.dataset.kind === "image") {
    const input = field.querySelector("input");
    return input.files.length ? base64(input.files[0]) : input.dataset.value || null;
  }
  const text = field.querySelector("input, select, textarea").value.trim();
  if (text === "") return null;
  if (field.dataset.kind === "boolean") return text === "true";
  if (["category", "text"].includes(field.dataset.kind)) return text;
  const number = Number(text);
  return Number.isNaN(number) ? text : number; // the server says what is wrong with a text
}

function mark(where, message) {
  for (const field of form.querySelectorAll("[data-name]")) {
    const wrong = where === `rows[0].${field.dataset.name}`;
    const hint = field.querySelector("small");
    field.classList.toggle("wrong", wrong);
    hint.textContent = wrong ? message : hint.dataset.hint;
  }
}

function show(headline, detail, shares, failed) {
  at("answer").hidden = false;
  at("answer").classList.toggle("failed", failed);
  at("headline").textContent = headline;
  at("detail").textContent = detail;
  at("shares").replaceChildren(...shares.flatMap(([name, share]) => {
    const [term, bar, number] = ["dt", "progress", "dd"].map((tag) => document.createElement(tag));
    term.textContent = name;
    bar.value = share;
    number.textContent = `${(100 * share).toFixed(1)} %`;
    return [term, bar, number];
  }));
  at("answer").scrollIntoView({ block: "nearest" });
}

function predicted(prediction) {
  if ("vector" in prediction) {
    const [head, count] = [prediction.vector.slice(0, 8), prediction.vector.length];
    return show(`${count} numbers`, `${head.join(", ")}, …`, [], false);
  }
  if ("value" in prediction) return show(String(prediction.value), "", [], false);
  const shares = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
  show(prediction.labels ? prediction.labels.join(", ") || "none" : prediction.label, "", shares.slice(0, 12), false);
}

function key() {
  return at("key") ? { "X-API-Key": at("key").value.trim() } : {};
}

function shown(name, value) {
  if (value === null) return "–";
  if (name === "since") return new Date(value).toLocaleString();
  return name.endsWith("_ms") ? `${value.toFixed(2)} ms` : value.toLocaleString();
}

async function health() {
  const response = await fetch(at("health").dataset.path, { headers: key() }).catch(() => null);
  const answer = response && response.ok ? await response.json() : {};
  const why = response && response.status < 500 ? "needs a key for `metrics`" : "no answer";
  for (const place of at("health").querySelectorAll("[data-of]")) {
    const name = place.dataset.of;
    place.textContent = name in answer ? shown(name, answer[name]) : why;
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  const headers = { "Content-Type": "application/json", ...key() };
  button.disabled = true;
  const begun = performance.now();
  try {
    const row = {};
    for (const field of form.querySelectorAll("[data-name]")) {
      row[field.dataset.name] = await value(field);
    }
    const response = await fetch(form.dataset.path, {
      method: "POST", headers, body: JSON.stringify({ rows: [row] }),
    });
    const answer = await response.json();
    const took = `${(performance.now() - begun).toFixed(1)} ms`;
    mark("", "");
    if (response.ok) {
      predicted(answer.predictions[0]);
      at("took").textContent = `version ${answer.version}, answered in ${took}`;
    } else {
      const { message, where } = answer.error;
      mark(where, message);
      show(`${response.status}: not predicted`, where ? `${where}: ${message}` : message, [], true);
      at("took").textContent = "";
    }
  } catch (error) {
    show("no answer", String(error.message || error), [], true);
    at("took").textContent = "";
  } finally {
    button.disabled = false;
    health();
  }
});

health();
setInterval(() => { if (!document.hidden) health(); }, 10000);
