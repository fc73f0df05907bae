// Keeps the live page up to date without moving the reader: parts that changed are replaced, what
// is open stays open, the focus stays where it is, and nothing moves while text is selected.
"use strict";
(() => {
  const PERIOD = 5000;
  const status = document.getElementById("status");
  let etag = "";

  const say = (words, isError) => {
    if (status.textContent !== words) status.textContent = words;
    status.classList.toggle("warn", isError);
  };

  const replace = (fresh) => {
    const focused = document.activeElement && document.activeElement.id;
    const open = new Map();
    for (const each of document.querySelectorAll("details[id]")) open.set(each.id, each.open);
    for (const each of fresh.querySelectorAll("details[id]"))
      if (open.has(each.id)) each.open = open.get(each.id);
    const old = document.querySelector("main");
    const parts = fresh.querySelector("main");
    if (old.isEqualNode(parts)) return;
    const names = [...parts.children].map((each) => each.id).join();
    if (names === [...old.children].map((each) => each.id).join())
      [...parts.children].forEach((part, at) => {
        if (!old.children[at].isEqualNode(part)) old.children[at].replaceWith(part);
      });
    else old.replaceWith(parts);
    const again = focused && document.getElementById(focused);
    if (again && again !== document.activeElement) again.focus({ preventScroll: true });
  };

  const update = async () => {
    if (document.hidden || !getSelection().isCollapsed) return;
    try {
      const headers = etag ? { "If-None-Match": etag } : {};
      const answer = await fetch(location.pathname, { cache: "no-store", headers });
      if (answer.status === 200) {
        etag = answer.headers.get("ETag") || "";
        replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      } else if (answer.status !== 304) throw new Error(answer.status);
      say("updates by itself", false);
    } catch {
      say("The proxy does not answer at this address any more. Its log names the new one.", true);
    }
  };

  say("updates by itself", false);
  document.addEventListener("visibilitychange", update);
  setInterval(update, PERIOD);
})();
