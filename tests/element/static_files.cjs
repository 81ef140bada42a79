// Lays out what webpack does not: pages, sounds, languages, and the recorder of voice messages.
//
//   node static_files.cjs FOLDER
const fs = require("node:fs");
const path = require("node:path");

const folder = process.argv[2];
const sdk = path.dirname(require.resolve("matrix-react-sdk/package.json"));
const strings = path.join(sdk, "src/i18n/strings");

fs.cpSync(path.join(__dirname, "public"), folder, { recursive: true });
fs.cpSync(path.join(sdk, "res/media"), path.join(folder, "media"), { recursive: true });
fs.mkdirSync(path.join(folder, "i18n"), { recursive: true });
fs.copyFileSync(path.join(strings, "en_EN.json"), path.join(folder, "i18n/en_EN.json"));
const languages = JSON.stringify({ en: "en_EN.json" });
fs.writeFileSync(path.join(folder, "i18n/languages.json"), languages);
// An AudioWorklet has to be a file of its own.
require("esbuild").buildSync({
    entryPoints: [path.join(sdk, "src/audio/RecorderWorklet.ts")],
    outfile: path.join(folder, "recorderWorklet.js"),
    bundle: true,
    format: "iife",
    target: "es2022",
});
