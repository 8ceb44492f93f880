// Connects the page's controls.

const DATA = JSON.parse(byId("data").textContent);

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
makeFilter(byId("samples"), byId("samples-codec"), byId("samples-quality"));
if (Object.keys(DATA.curves).length) startPlot();
if (DATA.images.length) startPictures();

function startPlot() {
  const plot = new Plot(byId("plot"), DATA.curves);
  const [metric, logRate] = [byId("metric"), byId("log-rate")];
  const rates = Object.values(DATA.curves).flatMap(({ curves }) => curves.flatMap(({ points }) => points.map(({ bpp }) => bpp)));
  metric.replaceChildren(...Object.keys(DATA.curves).map((name) => option(name, name)));
  logRate.checked = Math.min(...rates) < 0.1; // a linear axis would press such rates together
  const draw = () => {
    plot.metric = metric.value;
    plot.logRate = logRate.checked;
    plot.draw();
  };
  metric.addEventListener("change", draw);
  logRate.addEventListener("change", draw);
  draw();
}

function startPictures() {
  const cards = DATA.images.map((image) => new Card(image));
  const [left, right, difference, gain] = ["all-left", "all-right", "difference", "gain"].map(byId);
  const everywhere = new Map(DATA.images.flatMap(({ pictures }) => pictures.map((picture) => [keyOf(picture), picture])));
  const text = ({ codec, quality }) => `${codec} ${quality}`;
  for (const list of [left, right]) list.replaceChildren(...choices([...everywhere.values()], text));
  right.value = everywhere.keys().next().value;
  const choose = () => cards.forEach((card) => card.choose({ left: left.value, right: right.value }));
  const subtractAll = () => cards.forEach((card) => card.showDifference(difference.checked ? Number(gain.value) : null));
  for (const list of [left, right]) list.addEventListener("change", choose);
  for (const control of [difference, gain]) control.addEventListener("change", subtractAll);
  byId("cards").replaceChildren(...cards.map((card) => card.node));
  byId("all-pictures").hidden = false;
  choose();
}
