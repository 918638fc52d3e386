"use strict";
(() => {
  const one = (selector, from) => (from || document).querySelector(selector);
  const all = (selector, from) => [...(from || document).querySelectorAll(selector)];

  // A reference opens its passage over the page; without this script it leads to the passage below.
  const dialog = one("#opened");
  const open = (link) => {
    const target = document.getElementById(link.hash.slice(1));
    const passage = target && target.closest(".passage");
    if (!passage || !dialog.showModal) return false;
    const copy = passage.cloneNode(true);
    const number = link.dataset.c;
    all("[id]", copy).forEach((element) => element.removeAttribute("id"));
    copy.removeAttribute("id");
    all("mark", copy).forEach((mark) => mark.classList.toggle("on", mark.dataset.c.split(" ").includes(number)));
    const claim = link.closest("[data-claim]");
    one(".bar p", dialog).textContent = claim ? claim.dataset.claim : "";
    one(".body", dialog).replaceChildren(copy);
    dialog.showModal();
    const mark = one("mark.on", copy);
    if (mark) mark.scrollIntoView({ block: "center" });
    return true;
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-c]");
    if (link && !event.ctrlKey && !event.metaKey && !event.shiftKey && open(link)) event.preventDefault();
    if (event.target === dialog || event.target.closest("#shut")) dialog.close();
  });

  const table = one("#rows");
  if (!table) return;
  const body = one("tbody", table);
  const rows = all("tr", body);
  const search = one("#search"), group = one("#group"), shown = one("#shown");
  const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const counted = (count) => count === 1 ? "1 row" : count + " rows";
  const heading = (name, count) => {
    const row = document.createElement("tr"), cell = document.createElement("th"), small = document.createElement("small");
    row.className = "group";
    cell.colSpan = one("thead tr", table).cells.length;
    cell.scope = "rowgroup";
    cell.append(name, small);
    small.textContent = counted(count);
    row.append(cell);
    return row;
  };
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = rows.filter((row) => words.every((word) => text.get(row).includes(word)));
    const column = group.value === "" ? -1 : Number(group.value);
    if (column < 0) body.replaceChildren(...kept);
    else {
      const groups = new Map();
      kept.forEach((row) => {
        const name = row.cells[column].textContent.trim();
        groups.set(name, [...(groups.get(name) || []), row]);
      });
      const order = [...groups].sort((a, b) => b[1].length - a[1].length);
      body.replaceChildren(...order.flatMap(([name, members]) => [heading(name, members.length), ...members]));
    }
    shown.textContent = kept.length === rows.length ? counted(rows.length) : kept.length + " of " + counted(rows.length);
  };
  search.addEventListener("input", update);
  group.addEventListener("change", update);
  one(".tools").hidden = false;
  update();
})();
