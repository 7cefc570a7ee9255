// Controls the live refresh of htmx. Without this file the pages work, but do not refresh themselves.
"use strict";
(() => {
  const button = document.getElementById("pause");
  const status = document.getElementById("refresh");
  if (!button || !document.querySelector("#live[hx-get]")) return;
  let paused = sessionStorage.getItem("queueport-paused") === "yes";

  const show = () => {
    button.hidden = false;
    button.setAttribute("aria-pressed", String(paused));
    status.textContent = paused ? "Updates are paused." : "";
  };
  button.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("queueport-paused", paused ? "yes" : "no");
    show();
  });
  document.addEventListener("htmx:before:request", (event) => {
    if (paused || document.hidden) event.preventDefault();
  });
  const lost = () => {
    status.textContent = "The dashboard does not answer; the page is not up to date.";
  };
  document.addEventListener("htmx:error", lost);
  document.addEventListener("htmx:response:error", lost);
  document.addEventListener("htmx:before:response", (event) => {
    if (event.detail.ctx.response.status < 400) show();
  });
  show();
})();
