(() => {
  "use strict";
  const list = document.getElementById("photo-list");
  if (!list) return;
  const items = [...list.children];
  const pick = (name) => document.getElementById("filter-" + name);
  const status = document.getElementById("photos-status");
  const sorts = {
    confident: (a, b) => b.dataset.probability - a.dataset.probability,
    unsure: (a, b) => a.dataset.probability - b.dataset.probability,
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name),
  };
  function update() {
    let shown = 0;
    for (const item of items) {
      const d = item.dataset;
      const wanted = (!pick("label").value || d.label === pick("label").value)
        && (!pick("answer").value || d.answer === pick("answer").value)
        && (pick("kind").value !== "wrong" || d.label !== d.answer);
      item.hidden = !wanted;
      shown += wanted;
    }
    items.sort(sorts[pick("sort").value]).forEach((item) => list.append(item));
    status.textContent = shown + (shown === 1 ? " photo" : " photos") + " shown";
  }
  for (const name of ["label", "answer", "kind", "sort"]) pick(name).addEventListener("change", update);
  document.querySelectorAll("[data-cell]").forEach((cell) => cell.addEventListener("click", () => {
    pick("label").value = cell.dataset.label;
    pick("answer").value = cell.dataset.answer;
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
