// The microphone: one button that starts and ends a recording.

import { announce, toast } from "./dom.js";

const LONGEST = 60; // seconds

/** Connects the button. `recorded` is called with a file; `clock` shows the seconds. */
export function connectMicrophone(button, clock, recorded) {
  let recorder = null;
  if (!navigator.mediaDevices?.getUserMedia) {
    button.hidden = true; // browsers give the microphone to HTTPS and to this machine only
    return;
  }

  async function start() {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch {
      toast("The browser gives no microphone. Allow it for this page, or attach a file.");
      return;
    }
    const pieces = [];
    const made = new MediaRecorder(stream);
    recorder = made;
    made.ondataavailable = (event) => pieces.push(event.data);
    made.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      recorder = null;
      show(false);
      const type = made.mimeType || "audio/webm";
      recorded(new File(pieces, "recording", { type: type.split(";")[0] }));
    };
    made.start();
    show(true);
    const began = Date.now();
    const tick = setInterval(() => {
      const seconds = Math.floor((Date.now() - began) / 1000);
      clock.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
      if (seconds >= LONGEST && made.state === "recording") made.stop();
      if (made.state !== "recording") clearInterval(tick);
    }, 250);
  }

  function show(on) {
    button.setAttribute("aria-pressed", String(on));
    button.setAttribute("aria-label", on ? "End the recording" : "Record a sound");
    button.title = button.getAttribute("aria-label");
    clock.hidden = !on;
    clock.textContent = "0:00";
    announce(on ? "Recording." : "The recording is attached.");
  }

  button.addEventListener("click", () => (recorder ? recorder.stop() : start()));
}
