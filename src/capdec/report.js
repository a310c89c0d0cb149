"use strict";
// Sorts and filters the cards of each set of photos. They are in the page already, best and worst by one figure; nothing is fetched.
for (const set of document.querySelectorAll(".set")) {
  const controls = set.querySelector(".sorting");
  if (!controls) continue;
  const [figure, of] = ["figure", "of"].map((name) => controls.querySelector(`select[name=${name}]`));
  const buttons = [...controls.querySelectorAll("button")];
  const search = controls.querySelector("input");
  const count = controls.querySelector("output");
  const [first, second] = set.querySelectorAll(".half");
  const words = (text) => ` ${text.toLowerCase().replace(/[^\p{L}\p{N}\p{M}]+/gu, " ")}`;

  const cards = [...set.querySelectorAll("figure")].map((element) => ({
    element,
    text: words([...element.querySelectorAll(".caption, .references span")].map((each) => each.textContent).join(" ")),
    figures: [...element.querySelectorAll(".figures")].map(
      (list) => new Map([...list.children].map((term) => [term.querySelector("dt").textContent, term])),
    ),
  }));

  const value = (card, side) => Number(card.figures[side].get(figure.value)?.querySelector("data").value ?? NaN);

  function sort(order) {
    const better = figure.selectedOptions[0].dataset.better;
    const [side, against] = (of ? of.value : "0").split("-");
    const sign = (better === "lower" ? 1 : -1) * (order === "best" ? 1 : -1);
    const rank = new Map(cards.map((card) => [card, sign * (value(card, side) - (against ? value(card, against) : 0))]));
    const last = (card) => Number(Number.isNaN(rank.get(card))); // those without the figure
    cards.sort((a, b) => last(a) - last(b) || rank.get(a) - rank.get(b) || 0);
    for (const { element, figures } of cards) {
      first.querySelector(".cards").append(element);
      for (const [name, term] of figures.flatMap((terms) => [...terms])) {
        term.classList.toggle("by", name === figure.value);
        term.hidden = "waits" in term.dataset && name !== figure.value;
      }
    }
    if (second) second.hidden = true;
    const names = better === "neither" ? ["Highest first", "Lowest first"] : ["Best first", "Worst first"];
    buttons.forEach((button, place) => {
      button.textContent = names[place];
      button.setAttribute("aria-pressed", button.dataset.order === order);
      if (button.dataset.order === order) {
        const whose = of ? ` of ${of.selectedOptions[0].textContent}` : "";
        first.querySelector("h3").textContent = `By ${figure.value}${whose}, ${names[place].toLowerCase()}`;
      }
    });
  }

  function filter() {
    // A word is found at its beginning ("man" is not in "woman"), anywhere in scripts that need no spaces.
    const terms = words(search.value).trim().split(" ").filter(Boolean);
    const found = (card) => terms.every((term) => card.text.includes(/\p{Lo}/u.test(term) ? term : ` ${term}`));
    for (const card of cards) card.element.hidden = !found(card);
    const left = cards.filter((card) => !card.element.hidden).length;
    count.textContent = terms.length ? `${left} of the ${cards.length} shown` : "";
  }

  const pressed = () => buttons.find((button) => button.getAttribute("aria-pressed") === "true")?.dataset.order ?? "best";
  for (const button of buttons) button.addEventListener("click", () => sort(button.dataset.order));
  for (const select of [figure, of]) select?.addEventListener("change", () => sort(pressed()));
  search.addEventListener("input", filter);
  controls.hidden = false;
}
