(() => {
  "use strict";
  const list = document.getElementById("photo-list");
  if (!list) return;
  const items = [...list.children];
  const pick = (name) => document.getElementById("filter-" + name);
  const status = document.getElementById("photos-status");
  const filters = [...document.querySelectorAll("[data-filter]")];
  // "probability:-1": by that number, the largest first; what has none is sorted by its text.
  function compare(a, b) {
    const [key, sign] = pick("sort").value.split(":");
    return sign ? sign * (a.dataset[key] - b.dataset[key]) : a.dataset[key].localeCompare(b.dataset[key]);
  }
  function update() {
    let shown = 0;
    for (const item of items) {
      const wanted = (!pick("kind") || pick("kind").value !== "wrong" || item.dataset.wrong === "1")
        && filters.every((f) => !f.value || JSON.parse(item.dataset[f.dataset.filter]).includes(f.value));
      item.hidden = !wanted;
      shown += wanted;
    }
    items.sort(compare).forEach((item) => list.append(item));
    status.textContent = shown + (shown === 1 ? " photo" : " photos") + " shown";
  }
  document.querySelectorAll(".filters select").forEach((each) => each.addEventListener("change", update));
  document.querySelectorAll("[data-cell]").forEach((cell) => cell.addEventListener("click", () => {
    const wanted = JSON.parse(cell.dataset.cell);
    for (const f of filters) f.value = wanted[f.dataset.filter] || "";
    pick("kind").value = "all";
    update();
    document.getElementById("photos").scrollIntoView({ block: "start" });
    document.getElementById("photos").focus({ preventScroll: true });
  }));
  const heat = document.getElementById("show-heat");
  if (heat) {
    const show = () => list.classList.toggle("with-heat", heat.checked);
    heat.addEventListener("change", show);
    show();
  }
  document.querySelector(".filters").hidden = false;
  update();
})();
