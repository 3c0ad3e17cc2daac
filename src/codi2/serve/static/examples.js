// What an empty conversation shows: requests to try. Their media are this server's own files.

import { el, icon } from "./dom.js";

const EXAMPLES = [
  ["Draw a strawberry, as a glossy 3D emoji.", [], "image"],
  ["Draw this as an outlined emoji.", ["goose-google.png"], "image"],
  ["Take [image0] and make it night.", ["mango-twitter.png"], "image"],
  ["Given the transformation between [image0] and [image1], apply the same editing to [image2].", ["broccoli-google.png", "broccoli-fluent.png", "goose-google.png"], "image"],
  ["Add a cowbell being struck to [audio0].", ["piano.wav"], "audio"],
  ["Make the sound of [image0].", ["goose-fluent.png"], "audio"],
  ["Make a clip of a rooster that hops whenever it is heard, with its sound.", [], "video audio"],
  ["Generate a caption for this image: [image0]", ["taxi-google.png"], "text"],
];

/** The welcome. `run(words, files, want)` sends an example. */
export function welcome(makes, run) {
  const cards = EXAMPLES.filter(([, , want]) => want.split(" ").every((kind) => makes.includes(kind))).map(([words, names, want]) => {
    const shown = names.filter((name) => name.endsWith(".png")).map((name) => el("img", { src: `/static/examples/${name}`, alt: "" }));
    const open = async (event) => {
      event.currentTarget.disabled = true;
      const files = await Promise.all(names.map(async (name) => new File([await (await fetch(`/static/examples/${name}`)).blob()], name, { type: name.endsWith(".wav") ? "audio/wav" : "image/png" })));
      run(words, files, want.split(" "));
    };
    return el("button", { type: "button", class: "card", onclick: open }, el("span", { text: words }), el("span", { class: "with" }, ...shown, ...want.split(" ").map(icon)));
  });
  return el("div", { class: "welcome" },
    el("img", { src: "/static/icon.svg", alt: "", width: 52, height: 52 }),
    el("h2", { text: "What shall we make?" }),
    el("p", { text: "Write, draw on pictures, sounds and clips, and ask for changes of what came before." }),
    el("div", { class: "cards" }, ...cards));
}
