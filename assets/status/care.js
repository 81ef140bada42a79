// Buttons: copying, and the doctor.

import { byId, fill, make, row, set } from "./parts.js";

const COPIED_MS = 2000;

async function copy(button) {
  const from = byId(button.dataset.copy);
  const text = from.value ?? from.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers let only pages of this machine do that; it is marked for Ctrl-C then.
    const range = document.createRange();
    range.selectNodeContents(from);
    from.select ? from.select() : getSelection().setBaseAndExtent(from, 0, from, 1);
    return;
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), COPIED_MS);
}

for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));

const finding = ({ level, word, check, text, advice }) => {
  const side = make("span", { class: `level ${level}` }, word);
  return row(check, side, text, advice ? `What to do: ${advice}` : "");
};

byId("doctor").addEventListener("click", async ({ target }) => {
  target.disabled = true;
  set("findings-said", "The doctor looks; that takes up to a quarter of a minute …");
  try {
    const answer = await fetch("/_messagehub/status/doctor", { method: "POST" });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    const wrong = told.findings.filter(({ level }) => level === "warning" || level === "problem").length;
    set("findings-said", wrong ? `Something could be better: ${wrong} of ${told.findings.length} findings.` : "All is well.");
    fill("findings", told.findings, (all) => all.map(finding));
  } catch (error) {
    set("findings-said", `The doctor could not look: ${error.message}`);
  } finally {
    target.disabled = false;
  }
});
